"""Training on data of which one record in a hundred is damaged, as a user runs it."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from oner_jax.data.reading import order
from tests.data.samples import record, write_split
from tests.test_train import metrics, run

RECORDS, BATCH, STEPS = 300, 32, 60
BROKEN = (17, 120, 250)
OVERRIDES = (
    "--config.data.evaluation={}",
    f"--config.batch_size={BATCH}",
    f"--config.total_steps={STEPS}",
    "--config.log_interval_steps=10",
    "--config.checkpoint.interval_steps=1000",
)


def expected_losses() -> list[tuple[int, int, str]]:
    """Step, row and name of every damaged record that the run meets, by arithmetic alone."""
    losses = []
    for position in range(STEPS * BATCH):
        index = int(order.example_indices(np.array([position]), RECORDS, seed=0)[0][0])
        attempt = 0
        while index in BROKEN:
            losses.append((position // BATCH + 1, position % BATCH, f"example-{index}"))
            attempt += 1
            index = order.replacement_index(position, attempt, RECORDS, seed=0)
    return losses


def listed(workdir: Path) -> list[tuple[int, int, str]]:
    lines = map(json.loads, (workdir / "damaged.jsonl").read_text().splitlines())
    return [(line["step"], line["row"], line["id"]) for line in lines]


@pytest.mark.slow
def test_one_in_a_hundred_stops_a_run_and_goes_on_where_that_is_allowed(tmp_path):
    items = [record(n, image=b"no") if n in BROKEN else record(n) for n in range(RECORDS)]
    data = write_split(tmp_path / "data", items, shard_bytes=200_000)
    losses, workdir = expected_losses(), tmp_path / "run"
    # Ten damaged ones are not yet too many of less than ten thousand examples.
    counts = collections.Counter(10 * -(-step // 10) for step, _, _ in losses)
    total, stop = 0, 0
    while total <= 10:
        stop += 10
        total += counts[stop]
    assert stop < STEPS

    result = run(workdir, f"--config.data.train={data}", *OVERRIDES)
    assert result.returncode == 2, result.stderr
    # Among what the decoder says of pictures that were being made for the next steps.
    (complaint,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"error: {total} of {stop * BATCH:,} examples were damaged records" in complaint
    assert f"{total} undecodable" in complaint
    assert losses[0][2] in complaint
    assert "damaged.jsonl" in complaint
    assert listed(workdir) == losses[:total]
    assert metrics(workdir)[-1]["step"] == stop, "all that was done is kept"

    # A kill may leave more in the file than the checkpoint knows of.
    with (workdir / "damaged.jsonl").open("a") as file:
        file.write(json.dumps({"step": stop + 3, "row": 0, "id": "lost with the kill"}) + "\n")
    allowed = "--config.data.maximum_damaged_fraction=0.02"
    result = run(workdir, f"--config.data.train={data}", *OVERRIDES, allowed)
    assert result.returncode == 0, result.stderr
    assert listed(workdir) == losses
    lines = metrics(workdir)
    assert [line["step"] for line in lines] == list(range(10, STEPS + 1, 10))
    for line in lines:
        so_far = sum(step <= line["step"] for step, _, _ in losses)
        assert line.get("data/damaged/undecodable", 0) == so_far
        assert line["data/damaged_fraction"] == so_far / line["examples_seen"]
