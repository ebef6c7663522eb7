"""The encoder arms, each with its projection head, and the heads that only training needs.

A backbone is what the momentum twin copies: inputs, tower and projector. It says which views it
can serve, encodes any of them in one call and projects their [CLS] states. `PretrainingModel`
adds the predictor and the reconstruction heads.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from oner_jax.models.heads import PixelHead, WordHead, make_predictor, make_projector
from oner_jax.models.inputs import PAD_ID, Inputs
from oner_jax.models.settings import ModelSettings
from oner_jax.models.tower import Tower, make_segments
from oner_jax.models.views import VIEWS, PairInputs, View, ViewStates

Parameters = dict[str, Any]


class OneTower(nnx.Module):
    """One transformer and one projection head for every view: OneR's arm (d)."""

    views: ClassVar[frozenset[str]] = frozenset(VIEWS)

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.inputs = Inputs(settings, rngs=rngs)
        self.tower = Tower(settings, rngs=rngs)
        self.projector = make_projector(settings, rngs)

    def encode(self, inputs: PairInputs, views: Sequence[View]) -> dict[str, ViewStates]:
        """All `views` in one pass of the tower. Patches are embedded once and shared."""
        names = [view.name for view in views]
        patches = None
        if any(view.image for view in views):
            assert inputs.images is not None, "a view with an image needs images"
            patches = self.inputs.embed_images(inputs.images, inputs.patch_mask)
        pieces = [self._sequence(view, inputs, patches) for view in views]
        sequences, masks = zip(*pieces, strict=True)
        segments = make_segments(
            [sequence.shape[1] for sequence in sequences],
            [names.index(view.reads) for view in views],
        )
        states = self.tower(jnp.concatenate(sequences, axis=1), segments, masks)
        return {
            view.name: _split_states(states[:, segment.span], view, patches)
            for view, segment in zip(views, segments, strict=True)
        }

    def project(self, cls: Float[Array, "b width"], view: str) -> Float[Array, "b features"]:
        """g, the same for every view."""
        del view
        return self.projector(cls)

    def _sequence(self, view: View, inputs: PairInputs, patches: Any) -> tuple[jax.Array, Any]:
        """Tokens [CLS] + patches + words of one view, and which of them may be read."""
        parts = [patches] if view.image else []
        if not view.text:
            return jnp.concatenate([self.inputs.cls(len(patches)), *parts], axis=1), None
        ids = inputs.joint_text if view.image else inputs.text
        assert ids is not None, "a view with a caption needs token ids"
        parts.append(self.inputs.embed_text(ids))
        tokens = jnp.concatenate([self.inputs.cls(len(ids)), *parts], axis=1)
        always = jnp.ones((len(ids), tokens.shape[1] - ids.shape[1]), bool)
        return tokens, jnp.concatenate([always, ids != PAD_ID], axis=1)


def _split_states(states: jax.Array, view: View, patches: Any) -> ViewStates:
    first_word = 1 + (patches.shape[1] if view.image else 0)
    return ViewStates(
        cls=states[:, 0],
        image=states[:, 1:first_word] if view.image else None,
        text=states[:, first_word:] if view.text else None,
    )


class PretrainingModel(nnx.Module):
    """A backbone and the online-only heads: predictor p, pixel head, word head."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.backbone = OneTower(settings, rngs=rngs)
        self.predictor = make_predictor(settings, rngs)
        self.pixel_head = PixelHead(settings, rngs=rngs)
        self.word_head = WordHead(settings, rngs=rngs)

    def predict_words(self, states: Float[Array, "*batch width"]) -> Float[Array, "*batch words"]:
        """Logits over the vocabulary, tied to the word table."""
        return self.word_head(states, self.backbone.inputs.word_table[...])


class PureModel:
    """A `PretrainingModel` as a pure function of its parameters, a nested dict of arrays."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        abstract = nnx.eval_shape(lambda: PretrainingModel(settings, rngs=nnx.Rngs(0)))
        self.views = abstract.backbone.views
        self._definition, state = nnx.split(abstract)
        self._backbone_definition, _ = nnx.split(abstract.backbone)
        self.abstract_parameters: Parameters = nnx.to_pure_dict(state)

    def init(self, key: jax.Array) -> Parameters:
        """Fresh parameters, float32."""
        _, state = nnx.split(PretrainingModel(self.settings, rngs=nnx.Rngs(key)))
        return nnx.to_pure_dict(state)

    def bind(self, parameters: Parameters) -> PretrainingModel:
        """The module holding `parameters`, to be used inside a pure function."""
        return nnx.merge(self._definition, nnx.State(parameters))

    def bind_backbone(self, parameters: Parameters) -> OneTower:
        """The backbone alone, from `parameters["backbone"]` or a momentum twin of it."""
        return nnx.merge(self._backbone_definition, nnx.State(parameters))


def unit(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """L2-normalise the last axis; a zero vector stays zero instead of becoming NaN."""
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
