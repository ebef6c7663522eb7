"""The model that is trained: a backbone and the heads that only training needs, as a pure function.

`PretrainingModel` adds the predictor, the reconstruction heads and, where they are learned, the
contrast's logit scale and bias to an arm of `architectures.py`.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from oner_jax.models.architectures import ARCHITECTURES, Backbone
from oner_jax.models.heads import Logits, PixelHead, WordHead, make_predictor
from oner_jax.models.settings import ModelSettings

Parameters = dict[str, Any]


class PretrainingModel(nnx.Module):
    """A backbone and the online-only heads: predictor p, pixel head, word head, logits."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.backbone = ARCHITECTURES[settings.architecture](settings, rngs=rngs)
        if settings.predictor_hidden_width:
            self.predictor = make_predictor(settings, rngs)
        self.pixel_head = PixelHead(settings, rngs=rngs)
        self.word_head = WordHead(settings, rngs=rngs)
        if settings.learned_logits:
            self.logits = Logits()
        self._predicts = settings.predictor_hidden_width > 0

    def predict(self, projected: Float[Array, "b features"]) -> Float[Array, "b features"]:
        """p, or nothing where the model has no predictor."""
        return self.predictor(projected) if self._predicts else projected

    def predict_words(self, states: Float[Array, "*batch width"]) -> Float[Array, "*batch words"]:
        """Logits over the vocabulary, tied to the word table."""
        return self.word_head(states, self.backbone.inputs.word_table[...])


class PureModel:
    """A `PretrainingModel` as a pure function of its parameters, a nested dict of arrays."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        abstract = nnx.eval_shape(lambda: PretrainingModel(settings, rngs=nnx.Rngs(0)))
        self._definition, state = nnx.split(abstract)
        self._backbone_definition, _ = nnx.split(abstract.backbone)
        self.abstract_parameters: Parameters = nnx.to_pure_dict(state)
        self.views = abstract.backbone.views

    def init(self, key: jax.Array) -> Parameters:
        """Fresh parameters, float32."""
        _, state = nnx.split(PretrainingModel(self.settings, rngs=nnx.Rngs(key)))
        return nnx.to_pure_dict(state)

    def bind(self, parameters: Parameters) -> PretrainingModel:
        """The module holding `parameters`, to be used inside a pure function."""
        return nnx.merge(self._definition, nnx.State(parameters))

    def bind_backbone(self, parameters: Parameters) -> Backbone:
        """The backbone alone, from `parameters["backbone"]` or a momentum twin of it."""
        return nnx.merge(self._backbone_definition, nnx.State(parameters))
