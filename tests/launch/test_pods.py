"""The recipes for pods fit, and launch/README.md says of them what the planner says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.pods import LINEAR_BATCH_SIZE, PODS, get_config
from oner_jax.parallel.chips import GIB
from oner_jax.planning.topology import Topology

ROOT = Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
# What the table assumes at most, as oner_jax.check does.
MFU = 0.5
# Pairs: 40 epochs of CC3M, 40 of the paper's "4M" pictures, LAION-400M once.
RUNS = (40 * 3.3e6, 40 * 4.0e6, 407e6)


def table() -> dict[str, list[str]]:
    """Cells by recipe."""
    lines = (ROOT / "launch" / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in PODS}


def facts(name: str) -> list[str]:
    """The cells that the recipe itself determines."""
    pod = PODS[name]
    slices = f"{pod.num_slices} x " if pod.num_slices > 1 else ""
    topology = Topology.parse(pod.topology, pod.num_slices)
    batch = f"{pod.batch_size:,}"
    if pod.accumulation_steps > 1:
        batch += f" in {pod.accumulation_steps} parts"
    mesh = f"fsdp {pod.fsdp}, rest data" if pod.fsdp > 1 else "data"
    return [slices + pod.topology, str(topology.chips), batch, mesh, f"`{pod.remat}`"]


def check(name: str, plan: dict[str, Any]) -> None:
    """A plan, as JSON has it, against the table; the message is the row as it should be."""
    assert plan["memory"]["fits"]
    rate = plan["pairs_per_sec_per_chip"] * min(1.0, MFU / plan["mfu_bound"])
    hours = [pairs / (rate * plan["chips"]) / 3600 for pairs in RUNS]
    needed = plan["memory"]["needed"] / GIB
    row = [*facts(name), f"{needed:.1f}", f"{rate:.0f}", *(f"{hour:.2g}" for hour in hours)]
    found = table()[name]
    message = f"| `{name}` | {' | '.join(row)} |"
    assert found[: len(facts(name))] == facts(name), message
    numbers = [float(cell) for cell in found[len(facts(name)) :]]
    assert numbers == pytest.approx([needed, rate, *hours], rel=0.06), message


def test_the_table_has_every_recipe_and_no_other():
    assert list(table()) == list(PODS)


def case(name: str) -> Any:
    """A TPU's plan is compiled for minutes; a GPU's is arithmetic."""
    if not Topology.parse(PODS[name].topology).is_tpu:
        return name
    needs = pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu, the TPU's compiler")
    return pytest.param(name, marks=[pytest.mark.slow, needs])


@pytest.mark.parametrize("name", [case(name) for name in PODS])
def test_a_recipe_fits_its_pod_as_the_table_says(name):
    pod = PODS[name]
    place = [f"--topology={pod.topology}", f"--num_slices={pod.num_slices}"]
    command = [sys.executable, "-m", "oner_jax.plan", f"--config=configs/pods.py:{name}", *place]
    result = subprocess.run(
        [*command, "--effort=-1", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (plan,) = json.loads(result.stdout)
    check(name, plan)


def test_the_learning_rate_grows_linearly_and_then_by_the_root():
    peaks = {}
    for name, pod in PODS.items():
        config = get_config(name)
        peak = config.optimizer.learning_rate_per_256_examples * config.batch_size / 256
        peaks[pod.batch_size] = peak
    assert peaks[LINEAR_BATCH_SIZE] == pytest.approx(2.4e-3)
    assert peaks[4 * LINEAR_BATCH_SIZE] == pytest.approx(4.8e-3)


def test_recipes_take_data_and_fit_their_batch():
    for name, pod in PODS.items():
        config = get_config(f"{name},data=/shared/data")
        assert config.data.train == "/shared/data/train"
        assert config.batch_size % pod.accumulation_steps == 0
