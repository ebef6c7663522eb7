"""The objective of a run: which terms, how weighted, and what they cost in views.

Stages, so that micro-batches see the exact global batch: `prepare` draws every mask of the global
batch; `make_keys` runs the momentum twin (its keys carry no gradient, so they can be made first,
for all micro-batches); `features` is the online side of one micro-batch, and `contrast_losses`
holds its queries against all keys. Where keys are the online model's own they come out of
`features` instead.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from oner_jax.errors import InputError
from oner_jax.models.architectures import ARCHITECTURES, Backbone
from oner_jax.models.heads import unit
from oner_jax.models.inputs import normalize_pixels
from oner_jax.models.pretraining import PretrainingModel
from oner_jax.models.settings import ModelSettings
from oner_jax.models.views import CLS_ALONE, VIEWS, PairInputs, View, ViewStates, Wanted
from oner_jax.objectives import masking, reconstruction
from oner_jax.objectives.batch import PreparedBatch, TextFormat
from oner_jax.objectives.contrastive import Form, Keys, Queries, contrast, mix
from oner_jax.objectives.masking import MaskedImages, MaskedWords
from oner_jax.objectives.preparation import Preparation
from oner_jax.objectives.settings import ObjectiveSettings
from oner_jax.objectives.terms import CONTRASTIVE_TERMS, RECONSTRUCTION_TERMS, Reconstruction
from oner_jax.parallel.mesh import batch_sharding

Scalars = dict[str, Float[Array, ""]]

MAXIMUM_SCALE = 100.0  # CLIP's bound on a learned logit scale


class Features(NamedTuple):
    """What the online side of a micro-batch brings to the contrast.

    One row of vectors for each distinct mix of views; `keys` has no sets where the momentum twin
    makes the keys.
    """

    queries: Float[Array, "query_sets n d"]
    keys: Float[Array, "sets n d"]


class Objective:
    """Weighted sum of the terms of `settings`, for a model of shape `model` on `mesh`.

    `mosaic_fraction` of the pairs become mosaics (`mosaics.py`).
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        model: ModelSettings,
        text: TextFormat,
        mesh: Mesh,
        mosaic_fraction: float = 0.0,
    ):
        if len(text.word_start) != model.vocabulary_size:
            raise InputError(
                f"model.vocabulary_size={model.vocabulary_size} but the tokenizer has "
                f"{len(text.word_start)} pieces: make them equal"
            )
        settings.check_served(model.architecture, ARCHITECTURES[model.architecture].views)
        self.settings, self.model, self.text, self.mesh = settings, model, text, mesh
        active = settings.active_terms
        self.contrastive = {n: CONTRASTIVE_TERMS[n] for n in active if n in CONTRASTIVE_TERMS}
        self.reconstructive = {
            n: RECONSTRUCTION_TERMS[n] for n in active if n in RECONSTRUCTION_TERMS
        }
        pairs = [pair for term in self.contrastive.values() for pair in term]
        # Each distinct mix of views is made once, however many terms use it.
        self.query_sets = tuple(dict.fromkeys(pair.queries for pair in pairs))
        self.key_sets = tuple(dict.fromkeys(pair.keys for pair in pairs))
        query_views = [name for views in self.query_sets for name in views]
        key_views = [name for views in self.key_sets for name in views]
        rebuilt_views = [term.view for term in self.reconstructive.values()]
        online = query_views + rebuilt_views + ([] if self.has_twin else key_views)
        self.online_views = _views(online)
        self.key_views = _views(key_views) if self.has_twin else ()
        self.contrasted_views = frozenset(query_views if self.has_twin else query_views + key_views)
        rebuilds_pixels = any(term.pixels for term in self.reconstructive.values())
        rebuilds_words = any(term.words for term in self.reconstructive.values())
        self._image_mask_fraction = settings.image_mask_fraction if rebuilds_pixels else 0.0
        self._word_mask_fraction = settings.word_mask_fraction if rebuilds_words else 0.0
        block, side = settings.image_mask_block_patches, model.patches_per_side
        if self._image_mask_fraction and side % block:
            raise InputError(
                f"objective.image_mask_block_patches={block} does not divide the {side} patches of "
                "an image's side"
            )
        self.prepare = Preparation(
            settings,
            model,
            text,
            mosaic_fraction=mosaic_fraction,
            image_mask_fraction=self._image_mask_fraction,
            word_mask_fraction=self._word_mask_fraction,
        )
        # In every row as many; and places for hidden words.
        self.hidden_patches = block**2 * masking.masked_blocks(
            side, block, self._image_mask_fraction
        )
        self.word_slots = (
            masking.prediction_slots(model.text_tokens, self._word_mask_fraction)
            if self._word_mask_fraction
            else 0
        )

    @property
    def has_twin(self) -> bool:
        """Whether keys are a momentum twin's."""
        return self.settings.key_source == "momentum"

    def totals(self, batch: PreparedBatch) -> Scalars:
        """Counts over the global batch that the terms' sums are divided by."""
        pairs, words = batch.row.shape[0], batch.words.weights.sum()
        images = pairs
        if batch.image_only is not None:
            images += batch.image_only.image.shape[0]
        if batch.text_only is not None:
            words += batch.text_only.weights.sum()
        return {
            "pairs": jnp.float32(pairs),
            "images": jnp.float32(images),
            "words": jnp.maximum(words, 1.0),
            "joint_words": jnp.maximum(batch.joint_words.weights.sum(), 1.0),
        }

    def make_keys(self, momentum: Backbone, batch: PreparedBatch) -> Float[Array, "sets b d"]:
        """The momentum twin's key sets, from clean inputs."""
        inputs = PairInputs(normalize_pixels(batch.image), batch.text, batch.text)
        states = momentum.encode(inputs, self.key_views, CLS_ALONE) if self.key_views else {}
        keys = {name: unit(momentum.project(state.cls, name)) for name, state in states.items()}
        return jax.lax.stop_gradient(self._mixed(self.key_sets, keys, len(batch.row)))

    def features(
        self, model: PretrainingModel, batch: PreparedBatch, totals: Mapping[str, jax.Array]
    ) -> tuple[Features, Scalars]:
        """The online side of a micro-batch, and its share of the reconstruction terms by name.

        `totals` are the global batch's, so shares of micro-batches add up to the global loss.
        """
        inputs = PairInputs(
            normalize_pixels(batch.image),
            batch.words.inputs,
            batch.joint_words.inputs,
            batch.patch_mask if self._image_mask_fraction else None,
        )
        hidden = reconstruction.masked_patch_indices(batch.patch_mask, self.hidden_patches)
        states = model.backbone.encode(inputs, self.online_views, self._wanted(batch, hidden))
        # Between two heads whose kernels are both cut by features, rows have to be the only cut:
        # XLA's partitioner (JAX 0.10) otherwise computes a wrong gradient without a word.
        rows_alone = batch_sharding(self.mesh)
        projected = {
            name: jax.lax.with_sharding_constraint(
                model.backbone.project(state.cls, name), rows_alone
            )
            for name, state in states.items()
            if name in self.contrasted_views
        }
        queries = {name: unit(model.predict(vectors)) for name, vectors in projected.items()}
        keys = {} if self.has_twin else {name: unit(x) for name, x in projected.items()}
        rows = len(batch.row)
        features = Features(
            self._mixed(self.query_sets, queries, rows),
            self._mixed(() if self.has_twin else self.key_sets, keys, rows),
        )
        metrics = {
            f"loss/{name}": self._reconstruction_term(
                model, rebuilt, states[rebuilt.view], hidden, batch, inputs, totals
            )
            for name, rebuilt in self.reconstructive.items()
        }
        # Halves of no pair are more of the same to MIM and MLM: one mean over all of them.
        if batch.image_only is not None:
            metrics["loss/mim"] += self._pictures_alone(model, batch.image_only, totals)
        if batch.text_only is not None:
            metrics["loss/mlm"] += self._captions_alone(model, batch.text_only, totals)
        return features, metrics

    def contrast_losses(
        self,
        model: PretrainingModel,
        queries: Float[Array, "query_sets n d"],
        own: Float[Array, "sets n d"],
        batch: PreparedBatch,
        keys: Keys,
        totals: Mapping[str, jax.Array],
    ) -> Scalars:
        """A micro-batch's share of every contrastive term, and of the queries ranked right.

        `own` are the keys of the micro-batch's rows. The factor of a pair keeps the gradient's size
        when the temperature changes: 2 tau (MoCo v3). A learned scale takes the mean of its
        term's pairs instead (CLIP, SigLIP).
        """
        if not self.contrastive:
            return {}
        scale, bias = self._logits(model)
        pairs = [pair for term in self.contrastive.values() for pair in term]
        result = contrast(
            Queries(queries, own, batch.row, batch.caption_hash, batch.concept_hash),
            keys,
            tuple(
                (self.query_sets.index(pair.queries), self.key_sets.index(pair.keys))
                for pair in pairs
            ),
            scale=scale,
            bias=bias,
            form=cast(Form, self.settings.form),
            keys_carry_gradient=not self.has_twin,
            mesh=self.mesh,
        )
        losses, correct = (x.sum(axis=1) / totals["pairs"] for x in result)
        metrics, first = {}, 0
        for name, term in self.contrastive.items():
            span = slice(first, first + len(term))
            first = span.stop
            factor = 1 / len(term) if self.model.learned_logits else 2 * self.settings.temperature
            metrics[f"loss/{name}"] = factor * losses[span].sum()
            metrics[f"accuracy/{name}"] = correct[span].mean()
        return metrics

    def total(self, losses: Mapping[str, jax.Array]) -> Float[Array, ""]:
        """The weighted sum of the terms in `losses`."""
        weights = self.settings.weights
        names = (name for name in (*self.contrastive, *self.reconstructive))
        return sum(
            (weights[n] * losses[f"loss/{n}"] for n in names if f"loss/{n}" in losses),
            jnp.float32(0),
        )

    def _logits(self, model: PretrainingModel) -> tuple[jax.Array, jax.Array]:
        scale, bias = 1 / self.settings.temperature, self.settings.logit_bias
        if not self.model.learned_logits:
            return jnp.float32(scale), jnp.float32(bias)
        learned = scale * jnp.exp(model.logits.log_scale[...])
        return jnp.minimum(learned, MAXIMUM_SCALE), bias + model.logits.bias[...]

    def _mixed(
        self, sets: tuple[tuple[str, ...], ...], vectors: Mapping[str, jax.Array], rows: int
    ) -> Float[Array, "sets n d"]:
        if not sets:
            return jnp.zeros((0, rows, self.model.projection_width))
        return jnp.stack([mix(*(vectors[view] for view in views)) for views in sets])

    def _wanted(self, batch: PreparedBatch, hidden: Int[Array, "n hidden"]) -> dict[str, Wanted]:
        """The tokens that something is rebuilt from; contrast needs [CLS] alone."""
        return {
            term.view: Wanted(
                hidden if term.pixels and self.hidden_patches else None,
                self._words(term, batch).positions if term.words and self.word_slots else None,
            )
            for term in self.reconstructive.values()
        }

    @property
    def wanted_tokens(self) -> dict[str, int]:
        """How many tokens of a view are wanted besides [CLS], of views that are rebuilt from."""
        return {
            term.view: term.pixels * self.hidden_patches + term.words * self.word_slots
            for term in self.reconstructive.values()
        }

    def _pictures_alone(
        self, model: PretrainingModel, pictures: MaskedImages, totals: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Their share of MIM."""
        images = normalize_pixels(pictures.image)
        hidden = reconstruction.masked_patch_indices(pictures.patch_mask, self.hidden_patches)
        inputs = PairInputs(images, None, None, pictures.patch_mask)
        states = model.backbone.encode(inputs, [VIEWS["I"]], {"I": Wanted(patches=hidden)})["I"]
        return self._pixel_share(model, states, images, hidden, totals["images"])

    def _captions_alone(
        self, model: PretrainingModel, captions: MaskedWords, totals: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Their share of MLM."""
        inputs = PairInputs(None, captions.inputs, None)
        slots = {"T": Wanted(words=captions.positions)}
        states = model.backbone.encode(inputs, [VIEWS["T"]], slots)["T"]
        return _word_error(model, states, captions) / totals["words"]

    def _pixel_share(
        self,
        model: PretrainingModel,
        states: ViewStates,
        images: Float[Array, "n h w 3"],
        hidden: Int[Array, "n hidden"],
        total_images: jax.Array,
    ) -> jax.Array:
        """Of the mean over the hidden pixels of `total_images` images."""
        assert states.image is not None
        predicted = model.pixel_head(states.image)
        error = reconstruction.pixel_error(predicted, images, hidden, self.model.patch_size)
        return error / (total_images * self.hidden_patches * predicted.shape[-1])

    def _words(self, term: Reconstruction, batch: PreparedBatch) -> MaskedWords:
        return batch.joint_words if VIEWS[term.view].image else batch.words

    def _reconstruction_term(
        self,
        model: PretrainingModel,
        term: Reconstruction,
        states: ViewStates,
        hidden: Int[Array, "n hidden"],
        batch: PreparedBatch,
        inputs: PairInputs,
        totals: Mapping[str, jax.Array],
    ) -> jax.Array:
        loss = jnp.float32(0)
        if term.pixels and self.hidden_patches:
            assert inputs.images is not None
            images = totals["pairs" if VIEWS[term.view].text else "images"]
            loss += self._pixel_share(model, states, inputs.images, hidden, images)
        if term.words and self.word_slots:
            words = self._words(term, batch)
            count = totals["joint_words" if VIEWS[term.view].image else "words"]
            loss += _word_error(model, states, words) / count
        return loss


def _word_error(model: PretrainingModel, states: ViewStates, words: MaskedWords) -> jax.Array:
    """Sum over the hidden words."""
    assert states.text is not None
    logits = model.predict_words(states.text)
    return reconstruction.word_error(logits, words.targets, words.weights)


def _views(names: list[str]) -> tuple[View, ...]:
    """The views named, in the table's order, with every view whose keys and values they read."""
    wanted = set(names) | {VIEWS[name].reads for name in names}
    return tuple(view for name, view in VIEWS.items() if name in wanted)
