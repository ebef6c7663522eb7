"""The four encoder arms of the paper's comparison, behind one interface.

An arm is what the momentum twin copies: inputs, towers and projection heads. It says which views
it can serve, encodes any of them in one call and projects their [CLS] states. All arms have the
same input weights (`inputs.py`) and one [CLS] vector: they differ in towers and heads alone.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from oner_jax.models.heads import make_projector
from oner_jax.models.inputs import PAD_ID, Inputs
from oner_jax.models.settings import ModelSettings
from oner_jax.models.tower import Tower, make_segments
from oner_jax.models.views import VIEWS, PairInputs, View, ViewStates


class Passage(NamedTuple):
    """`tokens` of a pair that pass `layers` layers, in which each attends to `keys` tokens."""

    tokens: int
    keys: int
    layers: int


@runtime_checkable
class Backbone(Protocol):
    """What objectives, evaluation and export know of an arm."""

    views: ClassVar[frozenset[str]]
    inputs: Inputs

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """Last-layer states of all `views`, by name."""
        ...

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """g for states of `view`, not yet at unit length."""
        ...

    @staticmethod
    def passages(settings: ModelSettings, views: Sequence[View]) -> list[Passage]:
        """What `encode` makes the tokens of `views` pass: its cost, in layers."""
        ...

    @staticmethod
    def heads_of(view: View) -> int:
        """How many projection heads `project` runs for `view`."""
        ...


class TokenSequence(NamedTuple):
    """Tokens of one view, and which of them may be read (None: all)."""

    tokens: Float[Array, "b length width"]
    readable: Bool[Array, "b length"] | None


class OneTower(nnx.Module):
    """(d) One transformer and one projection head for every view: OneR."""

    views: ClassVar[frozenset[str]] = frozenset(VIEWS)

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.inputs = Inputs(settings, rngs=rngs)
        self.tower = Tower(settings, settings.depth, rngs=rngs)
        self.projector = make_projector(settings, rngs)

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """All `views` in one pass of the tower. Patches are embedded once and shared."""
        return _encode_together(self.inputs, self.tower, inputs, views)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """g, the same for every view."""
        del view
        return self.projector(states)

    @staticmethod
    def passages(settings: ModelSettings, views: Sequence[View]) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth) for view in views]

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

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """All `views` in one pass of the tower."""
        return _encode_together(self.inputs, self.tower, inputs, views)

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The view's own modality's head."""
        if VIEWS[view].image and VIEWS[view].text:
            return (self.image_projector(states) + self.text_projector(states)) / 2
        return (self.image_projector if VIEWS[view].image else self.text_projector)(states)

    @staticmethod
    def passages(settings: ModelSettings, views: Sequence[View]) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth) for view in views]

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

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """Each view through the tower of its modality."""
        states: dict[str, ViewStates] = {}
        for tower, modality in (
            (self.image_tower, [view for view in views if view.image]),
            (self.text_tower, [view for view in views if view.text]),
        ):
            if modality:
                states |= _encode_together(self.inputs, tower, inputs, modality)
        return states

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The head of the view's modality."""
        return (self.image_projector if view == "I" else self.text_projector)(states)

    @staticmethod
    def passages(settings: ModelSettings, views: Sequence[View]) -> list[Passage]:
        """Every view passes all layers of a tower."""
        return [_passage(settings, view, settings.depth) for view in views]

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

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """Each leg once: the text leg over the captions of T and of IT, which are masked apart."""
        names = [view.name for view in views]
        joint = "IT" in names
        states: dict[str, ViewStates] = {}
        if joint or "I" in names:
            states |= _encode_together(self.inputs, self.image_tower, inputs, [VIEWS["I"]])
        captions = {
            name: ids
            for name, ids in (("T", inputs.text), ("IT", inputs.joint_text))
            if name in names
        }
        if captions:
            states |= _encode_captions(self.inputs, self.text_tower, captions)
        if joint:
            states["IT"] = self._fuse(states["I"], states["IT"], inputs)
        return {name: states[name] for name in names}

    def project(
        self, states: Float[Array, "*batch width"], view: str
    ) -> Float[Array, "*batch features"]:
        """The head of the leg or of the fusion."""
        heads = {"I": self.image_projector, "T": self.text_projector, "IT": self.joint_projector}
        return heads[view](states)

    @staticmethod
    def passages(settings: ModelSettings, views: Sequence[View]) -> list[Passage]:
        """Each leg once for every input that it sees, then the fusion."""
        names, half = [view.name for view in views], settings.depth // 2
        joint = "IT" in names
        legs = [("I", settings.depth)] if joint or "I" in names else []
        legs += [("T", half)] * (("T" in names) + joint) + [("IT", half)] * joint
        return [_passage(settings, VIEWS[name], layers) for name, layers in legs]

    @staticmethod
    def heads_of(view: View) -> int:
        """That of its leg or of the fusion."""
        return 1

    def _fuse(self, image: ViewStates, text: ViewStates, inputs: PairInputs) -> ViewStates:
        assert image.image is not None
        assert text.text is not None
        assert inputs.joint_text is not None
        cls = (image.cls + text.cls)[:, None] / 2
        tokens = jnp.concatenate([cls, image.image, text.text], axis=1).astype(self.dtype)
        readable = _readable(inputs.joint_text, tokens.shape[1])
        (states,) = _run(self.fusion_tower, [TokenSequence(tokens, readable)], [0])
        return _split_states(states, image.image.shape[1], text.text.shape[1])


ARCHITECTURES: Mapping[str, type[OneTower | OneTowerTwoHeads | TwoTowers | TwoLegs]] = {
    "one_tower": OneTower,
    "one_tower_two_heads": OneTowerTwoHeads,
    "two_towers": TwoTowers,
    "two_legs": TwoLegs,
}


def _passage(settings: ModelSettings, view: View, layers: int) -> Passage:
    def tokens(view: View) -> int:
        return 1 + view.image * settings.patches + view.text * settings.text_tokens

    return Passage(tokens(view), tokens(VIEWS[view.reads]), layers)


def _encode_together(
    embed: Inputs, tower: Tower, inputs: PairInputs, views: Sequence[View]
) -> dict[str, ViewStates]:
    """All `views` in one pass of `tower`; images are embedded once."""
    names = [view.name for view in views]
    patches = None
    if any(view.image for view in views):
        assert inputs.images is not None, "a view with an image needs images"
        patches = embed.embed_images(inputs.images, inputs.patch_mask)
    sequences = [
        _sequence(
            embed,
            patches if view.image else None,
            None if not view.text else inputs.joint_text if view.image else inputs.text,
        )
        for view in views
    ]
    outputs = _run(tower, sequences, [names.index(view.reads) for view in views])
    image_tokens = 0 if patches is None else patches.shape[1]
    return {
        view.name: _split_states(
            states,
            image_tokens if view.image else 0,
            states.shape[1] - 1 - (image_tokens if view.image else 0),
        )
        for view, states in zip(views, outputs, strict=True)
    }


def _encode_captions(
    embed: Inputs, tower: Tower, captions: Mapping[str, Int[Array, "b length"] | None]
) -> dict[str, ViewStates]:
    """Several masked forms of the captions in one pass of `tower`, by name."""
    sequences = [_sequence(embed, None, ids) for ids in captions.values()]
    outputs = _run(tower, sequences, range(len(sequences)))
    return {
        name: _split_states(states, 0, states.shape[1] - 1)
        for name, states in zip(captions, outputs, strict=True)
    }


def _sequence(
    embed: Inputs,
    patches: Float[Array, "b patches width"] | None,
    ids: Int[Array, "b length"] | None,
) -> TokenSequence:
    """[CLS] + patches and/or words."""
    parts = [] if patches is None else [patches]
    if ids is not None:
        parts.append(embed.embed_text(ids))
    assert parts, "a view with a caption needs token ids"
    tokens = jnp.concatenate([embed.cls(len(parts[0])), *parts], axis=1)
    return TokenSequence(tokens, None if ids is None else _readable(ids, tokens.shape[1]))


def _readable(ids: Int[Array, "b length"], tokens: int) -> Bool[Array, "b tokens"]:
    """Everything before the caption, and its words but for padding."""
    before = jnp.ones((len(ids), tokens - ids.shape[1]), bool)
    return jnp.concatenate([before, ids != PAD_ID], axis=1)


def _run(
    tower: Tower, sequences: Sequence[TokenSequence], reads: Sequence[int]
) -> list[Float[Array, "b length width"]]:
    """One pass of `tower` over sequences laid end to end; sequence i reads sequence reads[i]."""
    segments = make_segments([part.tokens.shape[1] for part in sequences], reads)
    joined = jnp.concatenate([part.tokens for part in sequences], axis=1)
    states = tower(joined, segments, [part.readable for part in sequences])
    return [states[:, segment.span] for segment in segments]


def _split_states(states: jax.Array, image_tokens: int, text_tokens: int) -> ViewStates:
    first_word = 1 + image_tokens
    return ViewStates(
        cls=states[:, 0],
        image=states[:, 1:first_word] if image_tokens else None,
        text=states[:, first_word:] if text_tokens else None,
    )
