"""The four encoder arms of the paper's comparison, behind one interface.

An arm is what the momentum twin copies: inputs, towers and projection heads. It says which views
it can serve, encodes any of them in one call and projects their [CLS] states. All arms have the
same input weights (`inputs.py`) and one [CLS] vector: they differ in towers and heads alone.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Float

from oner_jax.models.heads import make_projector
from oner_jax.models.inputs import Inputs
from oner_jax.models.sequences import (
    choose_states,
    encode_together,
    join_sequence,
    make_sequence,
    read_patches,
    run_tower,
)
from oner_jax.models.settings import ModelSettings
from oner_jax.models.tower import Tower
from oner_jax.models.views import VIEWS, PairInputs, View, ViewStates, Wanted, WantedTokens


class Passage(NamedTuple):
    """`tokens` of a pair that pass `layers` layers, in which each attends to `keys` tokens.

    The last of them answers for `answers` tokens alone.
    """

    tokens: int
    keys: int
    layers: int
    answers: int


@runtime_checkable
class Backbone(Protocol):
    """What objectives, evaluation and export know of an arm."""

    views: ClassVar[frozenset[str]]
    inputs: Inputs

    def encode(
        self, inputs: PairInputs, views: Sequence[View], wanted: WantedTokens = None
    ) -> dict[str, ViewStates]:
        """Last-layer states of all `views`, by name; of `wanted` tokens alone, if given."""
        ...

    def read_patches(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
        """Last-layer states and values of view I's patches (`Tower.with_values`)."""
        ...

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """g for states of `view`, not yet at unit length."""
        ...

    @staticmethod
    def passages(
        settings: ModelSettings, views: Sequence[View], wanted: Mapping[str, int]
    ) -> list[Passage]:
        """What `encode` makes the tokens of `views` pass: its cost, in layers.

        `wanted` is how many tokens are, by view, besides [CLS]; none of views it does not name.
        """
        ...

    @staticmethod
    def heads_of(view: View) -> int:
        """How many projection heads `project` runs for `view`."""
        ...


class OneTower(nnx.Module):
    """(d) One transformer and one projection head for every view: OneR."""

    views: ClassVar[frozenset[str]] = frozenset(VIEWS)

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.inputs = Inputs(settings, rngs=rngs)
        self.tower = Tower(settings, settings.depth, rngs=rngs)
        self.projector = make_projector(settings, rngs)

    def encode(
        self, inputs: PairInputs, views: Sequence[View], wanted: WantedTokens = None
    ) -> dict[str, ViewStates]:
        """All `views` in one pass of the tower. Patches are embedded once and shared."""
        return encode_together(self.inputs, self.tower, inputs, views, wanted)

    def read_patches(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
        """Of the one tower."""
        return read_patches(self.inputs, self.tower, images)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """g, the same for every view."""
        del view
        return self.projector(states)

    @staticmethod
    def passages(
        settings: ModelSettings, views: Sequence[View], wanted: Mapping[str, int]
    ) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth, wanted) for view in views]

    @staticmethod
    def heads_of(view: View) -> int:
        """The one."""
        return 1


class OneTowerTwoHeads(nnx.Module):
    """(c) One transformer, a projection head for each modality.

    The joint view belongs to both modalities: its projection is the mean of both heads' (our
    choice; the paper does not say).
    """

    views: ClassVar[frozenset[str]] = frozenset(VIEWS)

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.inputs = Inputs(settings, rngs=rngs)
        self.tower = Tower(settings, settings.depth, rngs=rngs)
        self.image_projector = make_projector(settings, rngs)
        self.text_projector = make_projector(settings, rngs)

    def encode(
        self, inputs: PairInputs, views: Sequence[View], wanted: WantedTokens = None
    ) -> dict[str, ViewStates]:
        """All `views` in one pass of the tower."""
        return encode_together(self.inputs, self.tower, inputs, views, wanted)

    def read_patches(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
        """Of the one tower."""
        return read_patches(self.inputs, self.tower, images)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The view's own modality's head."""
        if VIEWS[view].image and VIEWS[view].text:
            return (self.image_projector(states) + self.text_projector(states)) / 2
        return (self.image_projector if VIEWS[view].image else self.text_projector)(states)

    @staticmethod
    def passages(
        settings: ModelSettings, views: Sequence[View], wanted: Mapping[str, int]
    ) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth, wanted) for view in views]

    @staticmethod
    def heads_of(view: View) -> int:
        """Both for the joint view."""
        return view.image + view.text


class TwoTowers(nnx.Module):
    """(a) A transformer and a head for each modality (CLIP). The modalities meet in no layer."""

    views: ClassVar[frozenset[str]] = frozenset({"I", "T"})

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.inputs = Inputs(settings, rngs=rngs)
        self.image_tower = Tower(settings, settings.depth, rngs=rngs)
        self.text_tower = Tower(settings, settings.depth, rngs=rngs)
        self.image_projector = make_projector(settings, rngs)
        self.text_projector = make_projector(settings, rngs)

    def encode(
        self, inputs: PairInputs, views: Sequence[View], wanted: WantedTokens = None
    ) -> dict[str, ViewStates]:
        """Each view through the tower of its modality."""
        states: dict[str, ViewStates] = {}
        for tower, modality in (
            (self.image_tower, [view for view in views if view.image]),
            (self.text_tower, [view for view in views if view.text]),
        ):
            if modality:
                states |= encode_together(self.inputs, tower, inputs, modality, wanted)
        return states

    def read_patches(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
        """Of the tower of images."""
        return read_patches(self.inputs, self.image_tower, images)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The head of the view's modality."""
        return (self.image_projector if view == "I" else self.text_projector)(states)

    @staticmethod
    def passages(
        settings: ModelSettings, views: Sequence[View], wanted: Mapping[str, int]
    ) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth, wanted) for view in views]

    @staticmethod
    def heads_of(view: View) -> int:
        """That of its modality."""
        return 1


class TwoLegs(nnx.Module):
    """(b) An image leg, a text leg of half its depth, and fusion layers on top of both (ALBEF).

    I and T are the legs' own outputs; IT is the fusion's. ALBEF fuses by cross-attention from the
    text leg; here fusion layers attend over the states of both legs together, so that every arm is
    made of the same blocks, and the joint [CLS] begins as the mean of the legs' (our choices).
    """

    views: ClassVar[frozenset[str]] = frozenset({"I", "T", "IT"})

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.dtype = settings.compute_dtype
        self.inputs = Inputs(settings, rngs=rngs)
        self.image_tower = Tower(settings, settings.depth, rngs=rngs)
        self.text_tower = Tower(settings, settings.depth // 2, rngs=rngs)
        self.fusion_tower = Tower(settings, settings.depth // 2, rngs=rngs)
        self.image_projector = make_projector(settings, rngs)
        self.text_projector = make_projector(settings, rngs)
        self.joint_projector = make_projector(settings, rngs)

    def encode(
        self, inputs: PairInputs, views: Sequence[View], wanted: WantedTokens = None
    ) -> dict[str, ViewStates]:
        """Each leg once: the text leg over the captions of T and of IT, which are masked apart."""
        names = [view.name for view in views]
        joint = "IT" in names
        # The fusion reads every token of the legs under it.
        states: dict[str, ViewStates] = {}
        if joint or "I" in names:
            states |= encode_together(
                self.inputs, self.image_tower, inputs, [VIEWS["I"]], None if joint else wanted
            )
        captions = {"T": inputs.text, "IT": inputs.joint_text}
        legs = {
            name: make_sequence(self.inputs, None, captions[name])
            for name in captions
            if name in names
        }
        if legs:
            whole: WantedTokens = None if wanted is None else {**wanted, "IT": None}
            states |= run_tower(self.text_tower, legs, wanted=whole)
        if joint:
            states["IT"] = self._fuse(states["I"], states["IT"], inputs, wanted)
            if wanted is not None:
                states["I"] = choose_states(states["I"], wanted.get("I", Wanted()))
        return {name: states[name] for name in names}

    def read_patches(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
        """Of the tower of images."""
        return read_patches(self.inputs, self.image_tower, images)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The head of the leg or of the fusion."""
        heads = {"I": self.image_projector, "T": self.text_projector, "IT": self.joint_projector}
        return heads[view](states)

    @staticmethod
    def passages(
        settings: ModelSettings, views: Sequence[View], wanted: Mapping[str, int]
    ) -> list[Passage]:
        """Each leg once for every input that it sees, then the fusion, which reads all of it."""
        names, half = [view.name for view in views], settings.depth // 2
        joint = "IT" in names
        passages = []
        if joint or "I" in names:
            below = {"I": settings.patches} if joint else wanted
            passages.append(_passage(settings, VIEWS["I"], settings.depth, below))
        if "T" in names:
            passages.append(_passage(settings, VIEWS["T"], half, wanted))
        if joint:
            passages.append(_passage(settings, VIEWS["T"], half, {"T": settings.text_tokens}))
            passages.append(_passage(settings, VIEWS["IT"], half, wanted))
        return passages

    @staticmethod
    def heads_of(view: View) -> int:
        """That of its leg or of the fusion."""
        return 1

    def _fuse(
        self, image: ViewStates, text: ViewStates, inputs: PairInputs, wanted: WantedTokens
    ) -> ViewStates:
        assert image.image is not None
        assert text.text is not None
        assert inputs.joint_text is not None
        cls = (image.cls + text.cls)[:, None] / 2
        parts = [image.image.astype(self.dtype), text.text.astype(self.dtype)]
        joint = join_sequence(cls.astype(self.dtype), *parts, ids=inputs.joint_text)
        return run_tower(self.fusion_tower, {"IT": joint}, wanted=wanted)["IT"]


ARCHITECTURES: Mapping[str, type[OneTower | OneTowerTwoHeads | TwoTowers | TwoLegs]] = {
    "one_tower": OneTower,
    "one_tower_two_heads": OneTowerTwoHeads,
    "two_towers": TwoTowers,
    "two_legs": TwoLegs,
}


def _passage(
    settings: ModelSettings, view: View, layers: int, wanted: Mapping[str, int]
) -> Passage:
    def tokens(view: View) -> int:
        return 1 + view.image * settings.patches + view.text * settings.text_tokens

    answers = 1 + wanted.get(view.name, 0)
    return Passage(tokens(view), tokens(VIEWS[view.reads]), layers, answers)
