"""Does it fit, and how fast can it be: `python -m oner_jax.plan --config=configs/oner.py:b16
--topology=v5e:16x16`.

For a TPU the real training step is compiled for that topology, which needs libtpu and no TPU;
NVIDIA GPUs are planned for by arithmetic alone. Override any key with `--config.KEY=VALUE`. A
vocabulary of 0, "the tokenizer's", is planned as 32,000.
"""

import json
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import define_recipe
from oner_jax.errors import InputError
from oner_jax.models.settings import REMAT_POLICIES
from oner_jax.parallel.chips import GIB
from oner_jax.planning.plan import (
    SEARCH_STEP,
    Plan,
    Roofline,
    largest_batch,
    make_plan,
    to_json,
)
from oner_jax.planning.topology import Topology


def define_flags() -> None:
    """Define the flags of this program; not at import, where they would be every program's."""
    define_recipe("config", "Recipe, as FILE.py[:argument].")
    flags.DEFINE_string("topology", None, "Where to run, as v5e:16x16 or h100:8.")
    flags.DEFINE_integer("num_slices", 1, "TPU slices of that shape.", lower_bound=1)
    flags.DEFINE_integer("pairs", 1_000_000_000, "Pairs to state hours for.", lower_bound=1)
    flags.DEFINE_bool("search", False, "Find the largest batch of every remat policy.")
    flags.DEFINE_float(
        "effort",
        0.0,
        "The compiler's effort for speed, -1 to 1; training compiles with 0. -1 takes half as long "
        "and finds the same memory, but keeps less on the chip: its memory traffic is a quarter "
        "higher.",
        lower_bound=-1.0,
        upper_bound=1.0,
    )
    flags.DEFINE_bool("json", False, "Print JSON and nothing else.")
    flags.DEFINE_bool("require_fit", False, "End with 2 where the recipe does not fit.")


def search(config: ConfigDict, topology: Topology) -> list[Plan]:
    """The plan of the largest batch that fits, for every remat policy that has one.

    Raises InputError if none has.
    """
    plans = []
    for remat in REMAT_POLICIES:
        with config.unlocked():
            config.model.remat = remat
        plan = largest_batch(config, topology)
        if plan is not None:
            plans.append(plan)
    if not plans:
        raise InputError(
            f"no remat policy fits {SEARCH_STEP} pairs on each device of {topology}: cut the "
            "parameters (config.mesh.fsdp) or take more chips"
        )
    return plans


def require_fit(plan: Plan) -> None:
    """Raise InputError where the plan needs more memory than a device has."""
    memory = plan.memory
    if not memory.fits:
        raise InputError(
            f"{plan.topology} has {memory.available / GIB:.2f} GiB a device and batch "
            f"{plan.batch_size} with remat {plan.remat!r} needs {memory.needed / GIB:.2f}: see "
            "what fits with --search, or cut the parameters (config.mesh.fsdp)"
        )


def describe(plan: Plan, pairs: int) -> str:
    """A plan for a person, with the hours that `pairs` pairs take at best."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    lines = [
        f"{plan.topology}: {plan.chips} chips, mesh {mesh or 'of one device'}, batch "
        f"{plan.batch_size} ({plan.batch_size / plan.chips:g} a chip), remat {plan.remat!r}",
        "",
        *_memory_lines(plan),
        "",
        f"model FLOPs a pair  {plan.flops_per_pair['total'] / 1e9:10.2f} G, of which the tower "
        f"{plan.flops_per_pair['tower'] / 1e9:.2f} G; recomputed {plan.recomputed_fraction:.1%}",
    ]
    if plan.compiled_ratio is not None:
        lines.append(f"compiled products   {plan.compiled_ratio:10.3f} x the model's")
    for each in plan.collectives:
        where = "between slices" if each.crosses_slices else "within a slice"
        lines.append(
            f"{each.kind:18}  {each.bytes / 1e6:10.1f} MB a step sent by a device in {each.count} "
            f"over groups of {each.group_size}, {where}"
        )
    if plan.roofline is not None:
        lines += ["", *_roofline_lines(plan, plan.roofline, pairs)]
    if plan.compile_seconds is not None:
        lines += ["", f"compiled in {plan.compile_seconds:.0f} s"]
    else:
        lines += [
            "",
            "Not compiled: temporaries are saved activations and gradients alone, without",
        ]
        lines += ["what a layer, the logits and the kernels work in."]
    return "\n".join(lines)


def _memory_lines(plan: Plan) -> list[str]:
    memory = plan.memory
    kinds = {
        "parameters": memory.parameters,
        "momentum twin": memory.momentum,
        "optimizer": memory.optimizer,
        "batch": memory.batch,
        "temporaries": memory.temporaries,
        "program": memory.program,
        "needed": memory.needed,
        "available": memory.available,
    }
    lines = [f"{name:18}  {size / GIB:10.2f} GiB a device" for name, size in kinds.items()]
    return [*lines, "fits" if memory.fits else "DOES NOT FIT"]


def _roofline_lines(plan: Plan, roofline: Roofline, pairs: int) -> list[str]:
    names = {
        "compute": roofline.compute_seconds,
        "memory traffic": roofline.memory_seconds,
        "links": roofline.links_seconds,
        "network": roofline.network_seconds,
    }
    rate = plan.batch_size / roofline.step_seconds
    return [
        *(
            f"{name:18}  " + ("   unknown" if value is None else f"{1000 * value:10.1f} ms")
            for name, value in names.items()
        ),
        f"at best             {1000 * roofline.step_seconds:10.1f} ms a step, limited by "
        f"{roofline.limited_by}; {plan.pairs_per_sec_per_chip:.1f} pairs/s/chip, "
        f"MFU {plan.mfu_bound:.1%}",
        f"{pairs:,} pairs in {pairs / rate / 3600:.1f} hours",
    ]


def main(_: Sequence[str]) -> None:
    """Plan `--config` for `--topology`, or search its batch, and print it as text or JSON."""
    values = flags.FLAGS
    if values.config is None:
        raise InputError("--config is missing: name a recipe, for example configs/oner.py:b16")
    if values.topology is None:
        raise InputError("--topology is missing: for example v5e:16x16, or h100:8")
    # Devices come from the topology; the machine's own are left alone.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_exec_time_optimization_effort", values.effort)
    topology = Topology.parse(values.topology, values.num_slices)
    config = configuration.resolve_without_data(values.config)
    plans = search(config, topology) if values.search else [make_plan(config, topology)]
    if values.json:
        print(json.dumps([to_json(plan) for plan in plans]))
    else:
        print("\n\n".join(describe(plan, values.pairs) for plan in plans), flush=True)
    if values.require_fit:
        require_fit(plans[0])


if __name__ == "__main__":
    define_flags()
    run_program(main)
