"""What a recipe will need and can reach at best on accelerators that are not there.

The step's memory, products, traffic and collectives are those of the real training step, compiled
for the topology. The roofline takes each at its chip's peak and all of them at the same time
(Williams et al. 2009): a bound, no forecast.
"""

import dataclasses
import math
import time
from types import SimpleNamespace
from typing import Any

import jax
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from oner_jax.objectives.batch import TextFormat
from oner_jax.parallel.chips import GIB, Chip
from oner_jax.parallel.mesh import AXES, BATCH_AXES, check_batch_size, device_grid, make_mesh
from oner_jax.planning.compiled_program import Collective, Program
from oner_jax.planning.device_memory import device_bytes, is_out_of_memory, needed_bytes
from oner_jax.planning.topology import Topology, tpu_devices
from oner_jax.training.flops import recomputed_fraction, saved_bytes
from oner_jax.training.recipe import Recipe

# A batch is searched in steps of this many pairs a device: what the tiling of a TPU likes.
SEARCH_STEP = 8


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device by kind. Where the step was not compiled, `temporaries` are the saved
    activations and the gradients alone; where the compiler refused it, what it says it needs."""

    parameters: int
    momentum: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    available: int
    refused: bool

    @property
    def fits(self) -> bool:
        return self.needed <= self.available and not self.refused

    @property
    def needed(self) -> int:
        kinds = (self.parameters, self.momentum, self.optimizer, self.batch, self.temporaries)
        return sum(kinds) + self.program


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds a step would take if one thing alone took time; None where that is not known."""

    compute_seconds: float
    memory_seconds: float | None
    links_seconds: float
    network_seconds: float | None

    @property
    def step_seconds(self) -> float:
        return max(seconds for seconds in dataclasses.astuple(self) if seconds is not None)

    @property
    def limited_by(self) -> str:
        named = {name: value or 0.0 for name, value in dataclasses.asdict(self).items()}
        return max(named, key=lambda name: named[name]).removesuffix("_seconds")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on a topology. `roofline` is None where the step does not fit."""

    topology: str
    chips: int
    mesh: dict[str, int]
    batch_size: int
    remat: str
    memory: Memory
    flops_per_pair: dict[str, float]
    recomputed_fraction: float
    compiled_ratio: float | None
    collectives: list[Collective]
    roofline: Roofline | None
    pairs_per_sec_per_chip: float | None
    mfu_bound: float | None
    compile_seconds: float | None


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it, with what follows from its fields."""
    content = dataclasses.asdict(plan)
    content["memory"] |= {"needed": plan.memory.needed, "fits": plan.memory.fits}
    if plan.roofline is not None:
        content["roofline"]["step_seconds"] = plan.roofline.step_seconds
        content["roofline"]["limited_by"] = plan.roofline.limited_by
    return content


def make_plan(config: ConfigDict, topology: Topology) -> Plan:
    """Plan a config without data (`configuration.resolve_without_data`) on `topology`."""
    recipe = Recipe.from_config(
        config, TextFormat.synthetic(config.model.vocabulary_size), _mesh(config, topology)
    )
    if topology.is_tpu:
        return _compiled_plan(recipe, topology)
    return _arithmetic_plan(recipe, topology)


def pairs_per_second(config: ConfigDict, topology: Topology, mfu: float) -> float:
    """What a resolved config's step takes on all of `topology` where it reaches this MFU.

    Raises InputError where the config does not fit the topology.
    """
    text = TextFormat.synthetic(config.model.vocabulary_size)
    whole = _abstract_mesh(config, topology)
    check_batch_size(config.batch_size, config.accumulation_steps, whole)
    one_device = make_mesh(devices=jax.devices()[:1])
    recipe = Recipe.from_config(config, text, one_device)
    return mfu * topology.chips * topology.chip.bf16_flops_per_second / recipe.flops.total


def largest_batch(config: ConfigDict, topology: Topology) -> Plan | None:
    """The plan of the largest batch that fits, to SEARCH_STEP pairs a device; None if none does."""
    mesh = _mesh(config, topology)
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * config.accumulation_steps
    unit = SEARCH_STEP * shards
    fitting: dict[int, Plan] = {}
    low, high, count = 0, 1 << 20, max(1, config.batch_size // unit)
    while high - low > 1:
        trial = config.copy_and_resolve_references()
        with trial.unlocked():
            trial.batch_size = count * unit
        plan = make_plan(trial, topology)
        if plan.memory.fits:
            low, fitting[count] = count, plan
        else:
            high = count
        count = min(max(low + 1, _likely_limit(fitting, low, high)), high - 1)
    return fitting.get(low)


def _likely_limit(fitting: dict[int, Plan], low: int, high: int) -> int:
    """Where memory, a straight line through the two largest that fit, would run out."""
    if len(fitting) < 2:
        return 2 * low if high > 2 * low else (low + high) // 2
    (a, first), (b, second) = sorted(fitting.items())[-2:]
    slope = (second.memory.needed - first.memory.needed) / (b - a)
    room = second.memory.available - second.memory.needed
    return b + int(room / slope) if slope > 0 else 2 * b


def _mesh(config: ConfigDict, topology: Topology) -> Any:
    """The mesh on the topology's devices; of GPUs, an abstract one."""
    if topology.is_tpu:
        return make_mesh(config.mesh.to_dict(), tpu_devices(topology))
    return _abstract_mesh(config, topology)


def _abstract_mesh(config: ConfigDict, topology: Topology) -> AbstractMesh:
    """The mesh without devices. Hosts of GPUs are slices."""
    devices = topology.chips * topology.chip.devices
    slice_devices = topology.chip.host_devices or devices // topology.slices
    fakes = [
        SimpleNamespace(platform="cpu", slice_index=i // slice_devices) for i in range(devices)
    ]
    return AbstractMesh(device_grid(config.mesh.to_dict(), fakes).shape, AXES)


def _compiled_plan(recipe: Recipe, topology: Topology) -> Plan:
    began = time.monotonic()
    try:
        compiled = recipe.step.lower(recipe.abstract, recipe.abstract_batch()).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(error)
        if needed is None or not is_out_of_memory(error):
            raise
        memory = _memory(recipe, topology.chip, temporaries=needed, program=0, refused=True)
        return _plan(recipe, topology, memory, compile_seconds=time.monotonic() - began)
    seconds = time.monotonic() - began
    analysis: Any = compiled.memory_analysis()
    memory = _memory(
        recipe,
        topology.chip,
        temporaries=analysis.temp_size_in_bytes,
        program=analysis.generated_code_size_in_bytes,
        refused=False,
    )
    program = Program(str(compiled.as_text()), topology.slices)
    return _plan(recipe, topology, memory, program=program, compile_seconds=seconds)


def _memory(recipe: Recipe, chip: Chip, *, temporaries: int, program: int, refused: bool) -> Memory:
    state = recipe.abstract
    return Memory(
        parameters=device_bytes(state.parameters),
        momentum=device_bytes(state.momentum),
        optimizer=device_bytes(state.optimizer),
        batch=device_bytes(recipe.abstract_batch()),
        temporaries=temporaries,
        program=program,
        available=int(chip.device_memory_gib * GIB),
        refused=refused,
    )


def _plan(
    recipe: Recipe,
    topology: Topology,
    memory: Memory,
    *,
    program: Program | None = None,
    compile_seconds: float | None = None,
) -> Plan:
    config, chip = recipe.config, topology.chip
    flops = recipe.flops
    device_flops = flops.total * config.batch_size / recipe.mesh.size
    recomputed = recomputed_fraction(recipe.model.settings, recipe.objective, recipe.rows)
    collectives = [] if program is None else program.collectives()
    roofline, ratio = None, None
    if program is not None:
        ratio = program.flops() / device_flops
        roofline = _roofline(chip, program.flops(), program.memory_bytes(), collectives)
    elif compile_seconds is None:
        collectives = _gradient_collectives(recipe, topology)
        roofline = _roofline(chip, device_flops * (1 + recomputed), None, collectives)
    pairs = None
    if roofline is not None:
        pairs = config.batch_size / topology.chips / roofline.step_seconds
    return Plan(
        topology=str(topology),
        chips=topology.chips,
        mesh=dict(recipe.mesh.shape),
        batch_size=config.batch_size,
        remat=config.model.remat,
        memory=memory,
        flops_per_pair={**flops._asdict(), "total": flops.total},
        recomputed_fraction=recomputed,
        compiled_ratio=ratio,
        collectives=collectives,
        roofline=roofline,
        pairs_per_sec_per_chip=pairs,
        mfu_bound=None if pairs is None else pairs * flops.total / chip.bf16_flops_per_second,
        compile_seconds=compile_seconds,
    )


def _roofline(
    chip: Chip, flops: float, memory_bytes: int | None, collectives: list[Collective]
) -> Roofline:
    """For one device, whose share of its chip's peaks is one part in `chip.devices`."""
    sent = dict.fromkeys((False, True), 0)
    for each in collectives:
        sent[each.crosses_slices] += each.bytes
    network = chip.network_bytes_per_second
    return Roofline(
        compute_seconds=flops * chip.devices / chip.bf16_flops_per_second,
        memory_seconds=None
        if memory_bytes is None
        else memory_bytes * chip.devices / chip.memory_bytes_per_second,
        links_seconds=sent[False] * chip.devices / chip.link_bytes_per_second,
        network_seconds=None if network is None else sent[True] * chip.devices / network,
    )


def _arithmetic_plan(recipe: Recipe, topology: Topology) -> Plan:
    """Without a compiler: state, saved activations, gradients between cards."""
    pairs = recipe.config.batch_size // recipe.config.accumulation_steps // recipe.mesh.size
    saved = int(pairs * saved_bytes(recipe.model.settings, recipe.objective, recipe.rows))
    gradients = device_bytes(recipe.abstract.parameters)
    memory = _memory(recipe, topology.chip, temporaries=saved + gradients, program=0, refused=False)
    return _plan(recipe, topology, memory)


def _gradient_collectives(recipe: Recipe, topology: Topology) -> list[Collective]:
    """The float32 gradients of a device's parameters, summed over all data-parallel cards."""
    cards = math.prod(recipe.mesh.shape[axis] for axis in ("slice", "data"))
    if cards == 1:
        return []
    size = 2 * device_bytes(recipe.abstract.parameters) * (cards - 1) // cards
    crosses = recipe.mesh.shape["slice"] > 1
    return [Collective("all-reduce", cards, crosses, 1, size)]
