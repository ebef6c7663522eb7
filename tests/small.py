"""A model and batches small enough to check against the float64 oracle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from oner_jax.models.pretraining import PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.objectives.batch import Batch, TextFormat
from oner_jax.objectives.objective import Objective
from oner_jax.objectives.settings import ObjectiveSettings
from oner_jax.parallel.mesh import DEFAULT_RULES, make_mesh
from oner_jax.training import schedule
from oner_jax.training.guards import GuardSettings
from oner_jax.training.optimizer import make_optimizer
from oner_jax.training.step import (
    TrainState,
    abstract_state,
    compile_step,
    init_state,
    make_train_step,
)

VOCABULARY = 64
ALL_TERMS = {"itc": 1.0, "cmc": 1.0, "mim": 1.0, "mlm": 1.0, "mmm": 1.0}
GUARD = GuardSettings(
    spike_z_score=10.0, spike_window_steps=8, maximum_consecutive_skips=3, maximum_rollbacks=1
)
TOTAL_STEPS = 10
LEARNING_RATE = schedule.learning_rate(
    peak=1e-2, end=1e-6, total_steps=TOTAL_STEPS, warmup_fraction=0.1
)
MOMENTUM = 0.9
# Epsilon above rounding error: Adam's first step is the gradient's sign, and rounding must
# not choose the sign of a gradient that is zero in exact arithmetic.
OPTIMIZER = make_optimizer(
    LEARNING_RATE, beta_1=0.9, beta_2=0.98, weight_decay=0.1, clip_norm=1.0, epsilon=1e-3
)


def settings(**changes) -> ModelSettings:
    shape = dict(
        image_size=16,
        patch_size=4,
        text_tokens=6,
        vocabulary_size=VOCABULARY,
        width=16,
        depth=2,
        heads=2,
        mlp_width=32,
        projection_hidden_width=24,
        projection_width=8,
        predictor_hidden_width=24,
    )
    return ModelSettings(**shape | changes)


def text_format() -> TextFormat:
    """Every third piece goes on with the word before it."""
    ids = np.arange(VOCABULARY)
    return TextFormat(mask_id=2, word_start=(ids > 2) & (ids % 3 != 0), joiner=(4,))


def one_device() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


def objective(
    model: ModelSettings,
    weights=None,
    mesh=None,
    kind=Objective,
    mosaic_fraction=0.0,
    **changes,
) -> Objective:
    constants: dict[str, Any] = dict(
        key_source="momentum",
        form="softmax",
        logit_bias=0.0,
        temperature=0.2,
        mask_equal_captions=True,
        image_mask_fraction=0.6,
        image_mask_block_patches=2,
        word_mask_fraction=0.3,
    )
    chosen = ObjectiveSettings(weights=weights or ALL_TERMS, **constants | changes)
    return kind(chosen, model, text_format(), mesh or one_device(), mosaic_fraction)


def parameters(model: PureModel, seed: int = 0):
    """Random everywhere, also where training starts from zeros and ones."""
    fresh = model.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def training(
    model: PureModel, objective: Objective, *, micro_batches=1, guard=GUARD, rules=DEFAULT_RULES
) -> tuple[jax.stages.Wrapped, TrainState]:
    """The compiled step on the objective's mesh, and where it starts."""
    mesh, has_twin = objective.mesh, objective.has_twin
    abstract = abstract_state(model, OPTIMIZER, mesh, rules, has_twin=has_twin, guard=guard)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    train_step = make_train_step(
        model,
        objective,
        OPTIMIZER,
        learning_rate=LEARNING_RATE,
        momentum=schedule.momentum(start=MOMENTUM, end=MOMENTUM, total_steps=TOTAL_STEPS),
        guard=guard,
        micro_batches=micro_batches,
        seed=0,
    )

    def make() -> TrainState:
        return init_state(model, OPTIMIZER, 0, has_twin=has_twin, guard=guard)

    return compile_step(train_step, shardings, mesh), jax.jit(make, out_shardings=shardings)()


def batch(model: ModelSettings, size: int = 8, seed: int = 0) -> Batch:
    """Captions of 1 to `text_tokens` pieces; the first two rows have equal captions."""
    random = np.random.default_rng(seed)
    text = random.integers(3, VOCABULARY, (size, model.text_tokens)).astype(np.int32)
    lengths = random.integers(1, model.text_tokens + 1, size)
    text[np.arange(model.text_tokens) >= lengths[:, None]] = 0
    text[1] = text[0]
    hashes = np.arange(1, size + 1, dtype=np.uint32)
    hashes[1] = hashes[0]
    image = random.integers(0, 256, (size, model.image_size, model.image_size, 3), np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(text), jnp.asarray(hashes))
