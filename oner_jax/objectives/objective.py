"""The objective of a run: which terms, how weighted, and what they cost in views.

Three stages, so that micro-batches see the exact global batch: `prepare` draws every mask of the
global batch, `make_keys` runs the momentum twin (keys carry no gradient, so they can be computed
first, for all micro-batches), `loss` is the online side of one micro-batch against all keys.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32
from ml_collections import ConfigDict

from oner_jax.errors import InputError
from oner_jax.models.architectures import OneTower, PretrainingModel, unit
from oner_jax.models.inputs import normalize_pixels
from oner_jax.models.settings import ModelSettings
from oner_jax.models.views import VIEWS, PairInputs, View, ViewStates
from oner_jax.objectives import masking, reconstruction
from oner_jax.objectives.contrastive import Keys, Queries, contrast, mix
from oner_jax.objectives.masking import MaskedWords
from oner_jax.objectives.terms import (
    CONTRASTIVE_TERMS,
    RECONSTRUCTION_TERMS,
    TERMS,
    Reconstruction,
)


class Batch(NamedTuple):
    """What a step receives from the pipeline."""

    image: UInt8[Array, "b h w 3"]
    text: Int[Array, "b length"]
    caption_hash: UInt32[Array, "b"]


class PreparedBatch(NamedTuple):
    """A batch with its masks. Every leaf has the batch as its first axis."""

    image: UInt8[Array, "b h w 3"]
    text: Int[Array, "b length"]
    patch_mask: Bool[Array, "b patches"]
    words: MaskedWords
    joint_words: MaskedWords
    row: Int[Array, "b"]
    captions: UInt32[Array, "b"]


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """What masking must know of the tokeniser."""

    mask_id: int
    word_start: np.ndarray

    @classmethod
    def synthetic(cls, vocabulary_size: int) -> "TextFormat":
        """Every piece a word: for benchmarks and plans, where no tokeniser is at hand."""
        return cls(mask_id=2, word_start=np.arange(vocabulary_size) > 2)


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """`config.objective`: a weight by term's name (0 leaves it out) and the terms' constants."""

    weights: Mapping[str, float]
    temperature: float
    mask_equal_captions: bool
    image_mask_fraction: float
    image_mask_block_patches: int
    word_mask_fraction: float

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in TERMS:
                raise InputError(f"objective.weights.{name}: terms are {', '.join(TERMS)}")
        if not any(weight > 0 for weight in self.weights.values()):
            raise InputError("objective.weights: every weight is 0, there is nothing to learn")
        if self.temperature <= 0:
            raise InputError(f"objective.temperature={self.temperature} must be above 0")
        for name in ("image_mask_fraction", "word_mask_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"objective.{name}={getattr(self, name)} is not in [0, 1)")

    @classmethod
    def from_config(cls, objective_config: ConfigDict) -> "ObjectiveSettings":
        fields = {name: objective_config[name] for name in objective_config}
        return cls(**fields | {"weights": dict(fields["weights"])})


class Objective:
    """Weighted sum of the terms of `settings`, for a model of shape `model`."""

    def __init__(self, settings: ObjectiveSettings, model: ModelSettings, text: TextFormat):
        if len(text.word_start) != model.vocabulary_size:
            raise InputError(
                f"model.vocabulary_size={model.vocabulary_size} but the tokenizer has "
                f"{len(text.word_start)} pieces: make them equal"
            )
        self.settings, self.model, self.text = settings, model, text
        active = [name for name, weight in settings.weights.items() if weight > 0]
        self.contrastive = {n: CONTRASTIVE_TERMS[n] for n in active if n in CONTRASTIVE_TERMS}
        self.reconstructive = {
            n: RECONSTRUCTION_TERMS[n] for n in active if n in RECONSTRUCTION_TERMS
        }
        pairs = [pair for term in self.contrastive.values() for pair in term]
        self.online_views = _views(
            [name for pair in pairs for name in pair.queries]
            + [term.view for term in self.reconstructive.values()]
        )
        self.key_views = _views([name for pair in pairs for name in pair.keys])
        rebuilds_pixels = any(term.pixels for term in self.reconstructive.values())
        rebuilds_words = any(term.words for term in self.reconstructive.values())
        self._image_mask_fraction = settings.image_mask_fraction if rebuilds_pixels else 0.0
        self._word_mask_fraction = settings.word_mask_fraction if rebuilds_words else 0.0

    def prepare(self, key: Key[Array, ""], batch: Batch) -> PreparedBatch:
        """Draw the masks of the global batch: one for images, two independent ones for words."""
        image_key, word_key, joint_key = jax.random.split(key, 3)
        rows = batch.text.shape[0]
        word_start = jnp.asarray(self.text.word_start)

        def words(key: Key[Array, ""]) -> MaskedWords:
            if self._word_mask_fraction == 0:
                none = jnp.zeros((rows, 0), jnp.int32)
                return MaskedWords(batch.text, none, none, none.astype(jnp.float32))
            return masking.draw_word_mask(
                key,
                batch.text,
                word_start,
                mask_id=self.text.mask_id,
                fraction=self._word_mask_fraction,
            )

        patch_mask = masking.draw_patch_mask(
            image_key,
            rows,
            self.model.patches_per_side,
            self.settings.image_mask_block_patches,
            self._image_mask_fraction,
        )
        # All 0 where equal captions are negatives (the paper).
        masked = self.settings.mask_equal_captions
        captions = batch.caption_hash if masked else jnp.zeros_like(batch.caption_hash)
        return PreparedBatch(
            batch.image,
            batch.text,
            patch_mask,
            words(word_key),
            words(joint_key),
            jnp.arange(rows),
            captions,
        )

    def make_keys(self, momentum: OneTower, batch: PreparedBatch) -> dict[str, Float[Array, "b d"]]:
        """k_X of the momentum twin for every view the terms need, from clean inputs."""
        if not self.key_views:
            return {}
        inputs = PairInputs(normalize_pixels(batch.image), batch.text, batch.text)
        states = momentum.encode(inputs, self.key_views)
        return {
            name: jax.lax.stop_gradient(unit(momentum.project(state.cls, name)))
            for name, state in states.items()
        }

    def totals(self, batch: PreparedBatch) -> dict[str, Float[Array, ""]]:
        """Counts over the global batch that the terms' sums are divided by."""
        return {
            "pairs": jnp.float32(batch.row.shape[0]),
            "words": jnp.maximum(batch.words.weights.sum(), 1.0),
            "joint_words": jnp.maximum(batch.joint_words.weights.sum(), 1.0),
        }

    def loss(
        self,
        model: PretrainingModel,
        batch: PreparedBatch,
        own_keys: Mapping[str, Float[Array, "b d"]],
        keys: Mapping[str, Float[Array, "global d"]],
        captions: UInt32[Array, "global"],
        totals: Mapping[str, Float[Array, ""]],
        mesh: Mesh,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """A micro-batch's share of the global loss, and of every term by name.

        `own_keys` are what `make_keys` made of the same examples, `keys` and `captions` the whole
        batch's, in the order of its rows. Shares of the micro-batches add up to the loss of the
        global batch.
        """
        inputs = PairInputs(
            normalize_pixels(batch.image),
            batch.words.inputs,
            batch.joint_words.inputs,
            batch.patch_mask if self._image_mask_fraction else None,
        )
        states = model.backbone.encode(inputs, self.online_views)
        metrics: dict[str, jax.Array] = {}
        queries = {
            name: unit(model.predictor(model.backbone.project(state.cls, name)))
            for name, state in states.items()
            if self.contrastive
        }
        if self.contrastive:
            metrics |= self._contrastive_terms(
                queries, batch, own_keys, keys, captions, totals, mesh
            )
        for name, rebuilt in self.reconstructive.items():
            metrics[f"loss/{name}"] = self._reconstruction_term(
                model, rebuilt, states[rebuilt.view], batch, inputs, totals
            )
        total = jnp.float32(0)
        for name in (*self.contrastive, *self.reconstructive):
            total += self.settings.weights[name] * metrics[f"loss/{name}"]
        return total, {"loss": total, **metrics}

    def _contrastive_terms(
        self,
        queries: Mapping[str, jax.Array],
        batch: PreparedBatch,
        own_keys: Mapping[str, jax.Array],
        keys: Mapping[str, jax.Array],
        captions: jax.Array,
        totals: Mapping[str, jax.Array],
        mesh: Mesh,
    ) -> dict[str, jax.Array]:
        """Every pair of every term in one pass of the keys."""
        temperature = self.settings.temperature
        pairs = [pair for term in self.contrastive.values() for pair in term]
        query_sets = list(dict.fromkeys(pair.queries for pair in pairs))
        key_sets = list(dict.fromkeys(pair.keys for pair in pairs))

        def mixed(vectors: Mapping[str, jax.Array], sets: list[tuple[str, ...]]) -> jax.Array:
            return jnp.stack([mix(*(vectors[view] for view in views)) for views in sets])

        result = contrast(
            Queries(
                mixed(queries, query_sets), mixed(own_keys, key_sets), batch.row, batch.captions
            ),
            Keys(mixed(keys, key_sets), jnp.arange(len(captions)), captions),
            tuple((query_sets.index(p.queries), key_sets.index(p.keys)) for p in pairs),
            scale=1 / temperature,
            mesh=mesh,
        )
        # MoCo v3's factor 2 tau keeps the gradient's size when the temperature changes.
        losses = 2 * temperature * result.loss.sum(axis=1) / totals["pairs"]
        correct = result.correct.sum(axis=1) / totals["pairs"]
        metrics, first = {}, 0
        for name, term in self.contrastive.items():
            of_term = slice(first, first := first + len(term))
            metrics[f"loss/{name}"] = losses[of_term].sum()
            metrics[f"accuracy/{name}"] = correct[of_term].mean()
        return metrics

    def _reconstruction_term(
        self,
        model: PretrainingModel,
        term: Reconstruction,
        states: ViewStates,
        batch: PreparedBatch,
        inputs: PairInputs,
        totals: Mapping[str, jax.Array],
    ) -> jax.Array:
        loss = jnp.float32(0)
        if term.pixels and self._image_mask_fraction:
            assert states.image is not None
            assert inputs.images is not None
            # Every row hides as many patches as any other unless blocks overhang the grid.
            grid, block = self.model.patches_per_side, self.settings.image_mask_block_patches
            hidden = masking.masked_blocks(grid, block, self._image_mask_fraction) * block**2
            indices = reconstruction.masked_patch_indices(batch.patch_mask, hidden)
            predicted = model.pixel_head(_gather(states.image, indices))
            pixels = totals["pairs"] * hidden * predicted.shape[-1]
            loss += (
                reconstruction.pixel_error(predicted, inputs.images, indices, self.model.patch_size)
                / pixels
            )
        if term.words and self._word_mask_fraction:
            assert states.text is not None
            joint = VIEWS[term.view].image
            words = batch.joint_words if joint else batch.words
            logits = model.predict_words(_gather(states.text, words.positions))
            error = reconstruction.word_error(logits, words.targets, words.weights)
            loss += error / totals["joint_words" if joint else "words"]
        return loss


def _gather(states: jax.Array, indices: jax.Array) -> jax.Array:
    return jnp.take_along_axis(states, indices[:, :, None], axis=1)


def _views(names: list[str]) -> tuple[View, ...]:
    """The views named, in the table's order, with every view whose keys and values they read."""
    wanted = set(names) | {VIEWS[name].reads for name in names}
    return tuple(view for name, view in VIEWS.items() if name in wanted)
