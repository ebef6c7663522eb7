"""From a resolved config to the parts of a run; training, benchmark and planner build alike."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oner_jax.errors import InputError
from oner_jax.models.pretraining import PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.objectives.batch import Batch, BatchRows, TextFormat
from oner_jax.objectives.mosaics import GROUP
from oner_jax.objectives.objective import Objective
from oner_jax.objectives.settings import ObjectiveSettings
from oner_jax.parallel.mesh import batch_sharding, check_batch_size, check_rules, make_mesh
from oner_jax.training import schedule
from oner_jax.training.flops import StepFlops, step_flops
from oner_jax.training.guards import GuardSettings, GuardState, init_guard
from oner_jax.training.optimizer import make_optimizer
from oner_jax.training.step import (
    TrainState,
    abstract_state,
    compile_step,
    init_state,
    make_train_step,
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a run. `step(state, batch) -> (state, metrics)` compiles at its first call."""

    config: ConfigDict
    mesh: Mesh
    model: PureModel
    objective: Objective
    optimizer: optax.GradientTransformation
    guard: GuardSettings
    abstract: TrainState
    step: jax.stages.Wrapped

    @property
    def rows(self) -> BatchRows:
        """How many rows of each kind a global batch has."""
        return _rows(self.config)

    @property
    def flops(self) -> StepFlops:
        """Analytic FLOPs of a step for each pair."""
        return step_flops(self.model.settings, self.objective, self.rows)

    @classmethod
    def from_config(
        cls, config: ConfigDict, text: TextFormat, mesh: Mesh | None = None
    ) -> "Recipe":
        """Build everything but arrays. Raises InputError for a config that cannot run."""
        if jax.config.values["jax_enable_x64"]:
            raise InputError(
                "JAX_ENABLE_X64 is on, but training computes in float32 and bfloat16: unset it"
            )
        mesh = make_mesh(config.mesh.to_dict()) if mesh is None else mesh
        check_batch_size(config.batch_size, config.accumulation_steps, mesh)
        check_rules(config.sharding_rules)
        _check_unpaired(config, mesh)
        settings = ModelSettings.from_config(config.model)
        model = PureModel(settings)
        mosaic_fraction = config.data.get("mosaic_fraction", 0.0)
        if mosaic_fraction and config.batch_size % GROUP:
            raise InputError(
                f"data.mosaic_fraction={mosaic_fraction}: batch_size={config.batch_size} must be a "
                f"multiple of {GROUP}"
            )
        objective_settings = ObjectiveSettings.from_config(config.objective)
        objective = Objective(objective_settings, settings, text, mesh, mosaic_fraction)
        optimizer_config = config.optimizer
        learning_rate = schedule.learning_rate_of(config)
        optimizer = make_optimizer(
            learning_rate,
            beta_1=optimizer_config.beta_1,
            beta_2=optimizer_config.beta_2,
            weight_decay=optimizer_config.weight_decay,
            clip_norm=optimizer_config.clip_norm,
        )
        guard = GuardSettings.from_config(config.guards)
        abstract = abstract_state(
            model,
            optimizer,
            mesh,
            config.sharding_rules,
            has_twin=objective.has_twin,
            guard=guard,
        )
        train_step = make_train_step(
            model,
            objective,
            optimizer,
            learning_rate=learning_rate,
            momentum=schedule.momentum(**config.momentum, total_steps=config.total_steps),
            guard=guard,
            micro_batches=config.accumulation_steps,
            seed=config.seed,
        )
        step = compile_step(train_step, _shardings(abstract), mesh)
        return cls(config, mesh, model, objective, optimizer, guard, abstract, step)

    def abstract_batch(self) -> Batch:
        """Shapes, types and shardings of a global batch."""
        rows, shape = self.rows, self.model.settings
        pixels = (shape.image_size, shape.image_size, 3)
        leaves: dict[str, Any] = {
            "image": ((rows.pairs, *pixels), jnp.uint8),
            "text": ((rows.pairs, shape.text_tokens), jnp.int32),
            "caption_hash": ((rows.pairs,), jnp.uint32),
        }
        if self.objective.settings.equal_concepts_are_positives:
            leaves["concept_hash"] = ((rows.pairs,), jnp.uint32)
        if rows.image_only:
            leaves["image_only"] = ((rows.image_only, *pixels), jnp.uint8)
        if rows.text_only:
            leaves["text_only"] = ((rows.text_only, shape.text_tokens), jnp.int32)
        sharding = batch_sharding(self.mesh)
        for name, (size, dtype) in leaves.items():
            leaves[name] = jax.ShapeDtypeStruct(size, dtype, sharding=sharding)
        return Batch(**leaves)

    def init_state(self) -> TrainState:
        """Fresh weights from the config's seed, made where they belong."""

        def make() -> TrainState:
            return init_state(
                self.model,
                self.optimizer,
                self.config.seed,
                has_twin=self.objective.has_twin,
                guard=self.guard,
            )

        return jax.jit(make, out_shardings=_shardings(self.abstract))()

    def init_guard(self) -> GuardState:
        """A guard that has seen nothing."""
        shardings = _shardings(self.abstract.guard)
        return jax.jit(lambda: init_guard(self.guard), out_shardings=shardings)()


def _rows(config: ConfigDict) -> BatchRows:
    return BatchRows(
        config.batch_size, config.data.image_only_batch_size, config.data.text_only_batch_size
    )


def _check_unpaired(config: ConfigDict, mesh: Mesh) -> None:
    """Raise InputError where nothing would be learned from the halves of no pair."""
    rows, objective = _rows(config), config.objective
    for kind, what, term, fraction in (
        ("image_only", "pictures without captions", "mim", "image_mask_fraction"),
        ("text_only", "captions without pictures", "mlm", "word_mask_fraction"),
    ):
        number, key = getattr(rows, kind), f"data.{kind}_batch_size"
        if not number:
            continue
        for name, value in (
            (f"weights.{term}", objective.weights.get(term, 0)),
            (fraction, objective[fraction]),
        ):
            if value <= 0:
                raise InputError(
                    f"{key}={number}: {what} are for {term.upper()}, but objective.{name} is "
                    f"{value}: raise it, or set {key} to 0"
                )
        check_batch_size(number, config.accumulation_steps, mesh, name=key)


def _shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
