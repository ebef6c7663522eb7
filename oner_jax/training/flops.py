"""Analytic FLOPs of a training step, for MFU and for plans.

Model FLOPs in the sense of PaLM (Chowdhery et al. 2022, appendix B): matrix products and
convolutions that the method asks for, two FLOPs a multiply-add; normalisation, softmax and what a
remat policy computes twice do not count. A backward pass is twice its forward pass, less the
gradient of the pixels; the momentum twin has none. A last layer counts for the tokens whose states
are read, as it is run.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from oner_jax.models.architectures import ARCHITECTURES, Passage
from oner_jax.models.inputs import convolution_shapes
from oner_jax.models.settings import ModelSettings
from oner_jax.models.tower import SAVED_NAMES
from oner_jax.models.views import VIEWS, View
from oner_jax.objectives.batch import BatchRows
from oner_jax.objectives.objective import Objective


class LayerFlops(NamedTuple):
    """Forward FLOPs of a transformer layer by its products, named as remat policies name them."""

    qkv: int
    attention_scores: int
    attention_output: int
    attention_projection: int
    mlp_hidden: int
    mlp_output: int


class StepFlops(NamedTuple):
    """FLOPs of one training step for one pair, forward and backward, by part.

    `keys` is the forward pass of the momentum twin with its projections, `heads` the online
    projections and predictions, `unpaired` a pair's share of the pictures and captions that a step
    has besides its pairs.
    """

    stem: int
    tower: int
    heads: int
    pixels: int
    words: int
    keys: int
    contrast: int
    unpaired: float

    @property
    def total(self) -> float:
        return sum(self)


def step_flops(model: ModelSettings, objective: Objective, rows: BatchRows) -> StepFlops:
    """FLOPs for one pair of a global batch of `rows`."""
    online, keys = objective.online_views, objective.key_views
    contrasted = [VIEWS[name] for name in sorted(objective.contrasted_views)]
    predictor = (model.projection_width, model.predictor_hidden_width, model.projection_width)
    prediction = dense_flops(*predictor) if model.predictor_hidden_width else 0
    return StepFlops(
        stem=2 * _stem_flops(model) * any(view.image for view in online),
        tower=3 * _tower_flops(model, _online_passages(model, objective)),
        heads=3 * (_projection_flops(model, contrasted) + len(contrasted) * prediction),
        pixels=3 * _pixel_terms(objective) * _pixel_flops(model, objective),
        words=3 * _word_terms(objective) * _word_flops(model, objective),
        keys=_stem_flops(model) * any(view.image for view in keys)
        + _tower_flops(model, ARCHITECTURES[model.architecture].passages(model, keys, {}))
        + _projection_flops(model, keys),
        contrast=(2 if objective.has_twin else 3) * _logits_flops(model, objective, rows.pairs),
        unpaired=_unpaired_flops(model, objective, rows),
    )


def recomputed_fraction(model: ModelSettings, objective: Objective, rows: BatchRows) -> float:
    """Share of the step's FLOPs that it does a second time.

    That is what `model.remat` does not keep and, where keys carry a gradient, the logits.
    """
    twice: float = 0 if objective.has_twin else _logits_flops(model, objective, rows.pairs)
    # A layer's output is the next one's input, which is always kept; the last keeps all it needs.
    kept = {"mlp_output", *SAVED_NAMES.get(model.remat, ())}
    if model.remat != "none":
        for share, passage in _shared_passages(model, objective, rows):
            layer = layer_flops(model, passage.tokens, passage.keys)._asdict()
            again = sum(flops for name, flops in layer.items() if name not in kept)
            twice += share * (passage.layers - 1) * again
    return twice / step_flops(model, objective, rows).total


def layer_flops(
    model: ModelSettings, tokens: int, keys: int, answers: int | None = None
) -> LayerFlops:
    """Forward FLOPs of one layer for `tokens` that attend to `keys`.

    With `answers`, of a layer that needs the states of so many of them alone.
    """
    asking = tokens if answers is None else answers
    projection = dense_flops(model.width, model.width)
    return LayerFlops(
        qkv=(asking + 2 * tokens) * projection,
        attention_scores=2 * asking * keys * model.width,
        attention_output=2 * asking * keys * model.width,
        attention_projection=asking * projection,
        mlp_hidden=asking * dense_flops(model.width, model.mlp_width),
        mlp_output=asking * dense_flops(model.mlp_width, model.width),
    )


def dense_flops(*widths: int) -> int:
    """Forward FLOPs of linear layers of `widths` for one vector."""
    return sum(2 * a * b for a, b in itertools.pairwise(widths))


def _online_passages(model: ModelSettings, objective: Objective) -> list[Passage]:
    architecture = ARCHITECTURES[model.architecture]
    return architecture.passages(model, objective.online_views, objective.wanted_tokens)


def _passages_alone(model: ModelSettings, objective: Objective, view: str) -> list[Passage]:
    """Of a picture or caption without its other half."""
    wanted = {"I": objective.hidden_patches, "T": objective.word_slots}
    return ARCHITECTURES[model.architecture].passages(model, [VIEWS[view]], wanted)


def _shared_passages(
    model: ModelSettings, objective: Objective, rows: BatchRows
) -> list[tuple[float, Passage]]:
    """Every online passage of a step, and how many such there are for one pair."""
    shared: list[tuple[float, Passage]] = [(1.0, p) for p in _online_passages(model, objective)]
    for view, number in (("I", rows.image_only), ("T", rows.text_only)):
        if number:
            alone = _passages_alone(model, objective, view)
            shared += [(number / rows.pairs, passage) for passage in alone]
    return shared


def _unpaired_flops(model: ModelSettings, objective: Objective, rows: BatchRows) -> float:
    flops = 0
    if rows.image_only:
        tower = _tower_flops(model, _passages_alone(model, objective, "I"))
        rebuilt = 3 * (tower + _pixel_flops(model, objective))
        flops += rows.image_only * (2 * _stem_flops(model) + rebuilt)
    if rows.text_only:
        tower = _tower_flops(model, _passages_alone(model, objective, "T"))
        flops += rows.text_only * 3 * (tower + _word_flops(model, objective))
    return flops / rows.pairs


def _tower_flops(model: ModelSettings, passages: Sequence[Passage]) -> int:
    flops = 0
    for tokens, keys, layers, answers in passages:
        flops += (layers - 1) * sum(layer_flops(model, tokens, keys))
        flops += sum(layer_flops(model, tokens, keys, answers))
    return flops


def _projection_flops(model: ModelSettings, views: Sequence[View]) -> int:
    hidden = [model.projection_hidden_width] * (model.projection_layers - 1)
    heads = sum(ARCHITECTURES[model.architecture].heads_of(view) for view in views)
    return heads * dense_flops(model.width, *hidden, model.projection_width)


def _stem_flops(model: ModelSettings) -> int:
    """Forward FLOPs of an image's embedding, made once for all views of a side."""
    if model.stem == "patch":
        return model.patches * dense_flops(3 * model.patch_size**2, model.width)
    flops, side, channels = 0, model.image_size, 3
    for shape in convolution_shapes(model):
        side, channels = side // shape.stride, shape.outputs
        flops += side**2 * dense_flops(shape.window**2 * shape.inputs, shape.outputs)
    return flops + model.patches * dense_flops(channels, model.width)


def _pixel_terms(objective: Objective) -> int:
    return sum(term.pixels for term in objective.reconstructive.values())


def _pixel_flops(model: ModelSettings, objective: Objective) -> int:
    """Of the pixels of one view."""
    return objective.hidden_patches * dense_flops(model.width, 3 * model.patch_size**2)


def _word_terms(objective: Objective) -> int:
    return sum(term.words for term in objective.reconstructive.values())


def _word_flops(model: ModelSettings, objective: Objective) -> int:
    """Of one view, at its slots for hidden words; an empty slot is computed all the same."""
    return objective.word_slots * dense_flops(model.width, model.width, model.vocabulary_size)


def _logits_flops(model: ModelSettings, objective: Objective, batch_size: int) -> int:
    """Every query meets every key; a gradient of queries or of keys costs the same again."""
    pairs = sum(len(term) for term in objective.contrastive.values())
    return pairs * dense_flops(model.projection_width, batch_size)


def saved_bytes(model: ModelSettings, objective: Objective, rows: BatchRows) -> float:
    """Bytes that the online tower keeps for its backward pass, for one pair, by `model.remat`.

    A pair's share of unpaired pictures and captions is in it. Of "none" it is what "cheap" keeps:
    a lower bound, as XLA decides what else to keep.
    """
    widths = {"qkv": 3 * model.width, "mlp_hidden": model.mlp_width}
    kept = SAVED_NAMES.get("cheap" if model.remat == "none" else model.remat, ())
    width = model.width + sum(widths.get(name, model.width) for name in kept)
    online = _shared_passages(model, objective, rows)
    tokens = sum(share * (passage.layers - 1) * passage.tokens for share, passage in online)
    answers = sum(share * passage.answers for share, passage in online)
    last_keys_and_values = 2 * model.width * sum(share * each.tokens for share, each in online)
    return ((tokens + answers) * width + last_keys_and_values) * model.compute_dtype.itemsize
