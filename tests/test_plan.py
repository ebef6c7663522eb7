"""The planner as a user runs it, and its search."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.oner import get_config
from oner_jax.configuration import resolve_without_data
from oner_jax.parallel.chips import CHIPS
from oner_jax.planning import plan as planning
from oner_jax.planning.topology import Topology

ROOT = Path(__file__).parents[1]
TINY = "configs/oner.py:tiny"
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def plan(*arguments: str, config: str = "configs/oner.py:b16"):
    return subprocess.run(
        [sys.executable, "-m", "oner_jax.plan", f"--config={config}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_gpus_are_planned_by_arithmetic():
    result = plan("--topology=h100:16", "--config.batch_size=2048", "--json")
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)
    assert found["mesh"] == {"slice": 2, "data": 8, "fsdp": 1, "tensor": 1}
    memory, roofline = found["memory"], found["roofline"]
    # AdamW's two moments and its step.
    assert memory["optimizer"] == 2 * memory["parameters"] + 8
    # Keeping 9 widths of 768 bfloat16 a token and layer; 197 + 79 + 275 tokens. Of the last layer,
    # keys and values of them all and the 9 widths of [CLS], 116 hidden patches and 24 words a view.
    answers = 3 + 2 * 116 + 2 * 24
    saved = 128 * ((11 * 551 + answers) * 9 + 551 * 2) * 768 * 2
    assert memory["temporaries"] == saved + memory["parameters"]
    assert memory["fits"]
    total = found["flops_per_pair"]["total"] * (1 + found["recomputed_fraction"])
    assert roofline["compute_seconds"] == pytest.approx(128 * total / 989.4e12)
    assert roofline["network_seconds"] == pytest.approx(
        2 * 15 / 16 * memory["parameters"] / 50e9, rel=1e-6
    )
    assert roofline["limited_by"] == "compute"
    assert found["mfu_bound"] == pytest.approx(1 / (1 + found["recomputed_fraction"]))


def test_what_a_person_reads():
    result = plan("--topology=h100:8", "--config.batch_size=64", "--pairs=3600", config=TINY)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("h100:8: 8 chips, mesh data 8, batch 64 (8 a chip)")
    for line in ("fits", "3,600 pairs in 0.0 hours", "Not compiled"):
        assert line in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v9:16x16"], ["unknown topology 'v9:16x16'", "v5e", "h100:8"]),
        (["--topology=v5e"], ["unknown topology 'v5e'", "v5e:16x16"]),
        ([], ["--topology is missing"]),
        (["--topology=h100:8", "--config.batch_size=9"], ["batch_size=9 cannot be divided"]),
        pytest.param(
            ["--topology=v5e:16x16"],
            ["requirements-tpu.txt"],
            marks=pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed"),
        ),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    result = plan(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in ["error: ", *words]), line


def test_search_ends_at_the_largest_batch_that_fits(monkeypatch):
    """On a chip where a pair needs 100 MiB and the state 1 GiB, of 15.75 GiB."""
    tried = []

    def fake(config, topology):
        pairs = config.batch_size // topology.chips
        tried.append(pairs)
        needed = 2**30 + pairs * 100 * 2**20
        memory = planning.Memory(2**30, 0, 0, 0, needed - 2**30, 0, int(15.75 * 2**30), False)
        return planning.Plan(
            topology=str(topology),
            chips=topology.chips,
            mesh={},
            batch_size=config.batch_size,
            remat=config.model.remat,
            memory=memory,
            flops_per_pair={},
            recomputed_fraction=0.0,
            compiled_ratio=None,
            collectives=[],
            roofline=None,
            pairs_per_sec_per_chip=None,
            mfu_bound=None,
            compile_seconds=None,
        )

    monkeypatch.setattr(planning, "make_plan", fake)
    topology = Topology(CHIPS["a100"], (16,), 1)
    found = planning.largest_batch(resolve_without_data(get_config("b16")), topology)
    assert found is not None
    assert found.batch_size == 16 * 144
    assert len(tried) <= 6


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu, the TPU's compiler")
def test_the_real_step_compiled_for_a_tpu():
    result = plan("--topology=v5e:2x2", "--config.batch_size=32", "--json", config=TINY)
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)
    assert found["memory"]["fits"]
    assert found["compiled_ratio"] == pytest.approx(1, rel=0.05)
    assert {each["kind"] for each in found["collectives"]} <= {"all-reduce", "all-gather"}
