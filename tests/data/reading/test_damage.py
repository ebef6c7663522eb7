"""Damaged records, each kind of damage made by hand, against what an oracle says of their order."""

import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import records
from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import training_batches
from oner_jax.data.reading import damage, order
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture, record, write_split

BATCH, SEED, SIZE = 12, 5, 48
GREY_BITS = encoded(Image.fromarray(picture(11)).convert("1"), "PNG")

# Index of a record: what is done to it, the reason it is counted under, whether its name is known.
DAMAGE: dict[int, tuple[records.Record | bytes, str, str]] = {
    3: (record(3, image=b"<html>"), damage.UNDECODABLE, "example-3"),
    7: (record(7, image=record(7).image[:60]), damage.UNDECODABLE, "example-7"),
    11: (record(11, image=GREY_BITS), damage.UNDECODABLE, "example-11"),
    20: (record(20, height=4000), damage.UNDECODABLE, "example-20"),
    22: (record(22, image=b"", height=0, width=0), damage.NO_PICTURE, "example-22"),
    30: (b"\xff\xff no record", damage.UNPARSABLE, ""),
    31: (record(31, captions=("%bad%",)), damage.UNPARSABLE, ""),
    40: (record(40), damage.UNREADABLE, ""),
}


def without_captions(number: int) -> records.Record:
    return records.Record(f"example-{number}", record(number).image, 24, 24, ())


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> str:
    """Every kind of damage, in one shard."""
    folder = tmp_path_factory.mktemp("data") / "damaged"
    folder.mkdir()
    items = [DAMAGE[n][0] if n in DAMAGE else record(n) for n in range(SIZE)]
    items[45] = without_captions(45)
    serialised = [item if isinstance(item, bytes) else item.serialise() for item in items]
    serialised[31] = serialised[31].replace(b"%bad%", b"\xff\xfe\xfd\xfc\xfb")
    records.write_split(folder, serialised, shard_bytes=2**20)
    shard = folder / records.shard_file(0)
    content = bytearray(shard.read_bytes())
    place = content.index(serialised[40]) + 40
    content[place : place + 20] = bytes(20)
    shard.write_bytes(content)
    return str(folder)


REASONS = {index: reason for index, (_, reason, _) in DAMAGE.items()} | {45: damage.NO_CAPTION}
NAMES = {index: name for index, (_, _, name) in DAMAGE.items()} | {45: "example-45"}


def batches(split: str, count: int, first_step: int = 0, rows=None, **changes: Any):
    options = DataOptions(split, "embedded", image_size=16, text_tokens=8, **changes)
    stream = training_batches(
        options,
        global_batch_size=BATCH,
        seed=SEED,
        first_step=first_step,
        rows=None if rows is None else {"train": rows},
    )
    return list(itertools.islice(stream, count)), stream.take_losses()


def expected(step: int, row: int) -> tuple[int, list[tuple]]:
    """The example of a row, and the losses before it, by arithmetic alone."""
    position = step * BATCH + row
    index = int(order.example_indices(np.array([position]), SIZE, SEED)[0][0])
    losses: list[tuple] = []
    while index in REASONS:
        attempt = len(losses)
        losses.append((step + 1, row, attempt, index, NAMES[index], REASONS[index]))
        index = order.replacement_index(position, attempt + 1, SIZE, SEED)
    return index, losses


@pytest.fixture(scope="module")
def whole(split):
    return batches(split, 12)


def test_damaged_records_are_replaced_and_counted_as_an_oracle_says(split, whole):
    made, losses = whole
    found = [(x.step, x.row, x.attempt, x.index, x.id, x.reason) for x in losses]
    oracle = [expected(step, row) for step in range(12) for row in range(BATCH)]
    indices = [index for index, _ in oracle]
    assert list(np.concatenate([batch["index"] for batch in made])) == indices
    assert found == [loss for _, own in oracle for loss in own]
    assert {loss.reason for loss in losses} == set(damage.REASONS)
    assert {(loss.stream, loss.dataset) for loss in losses} == {("train", split)}
    assert all(loss.detail and "\n" not in loss.detail for loss in losses)


def test_what_is_made_alone_is_what_the_pipeline_makes(tmp_path, whole):
    """Of an undamaged twin: where it shows the same example, the rows are the same."""
    name = write_split(tmp_path / "sound", [record(number) for number in range(SIZE)])
    sound, losses = batches(name, 12)
    assert not losses
    compared = 0
    for batch, twin in zip(whole[0], sound, strict=True):
        for row in np.flatnonzero(batch["index"] == twin["index"]):
            assert all(np.array_equal(batch[name][row], twin[name][row]) for name in batch)
            compared += 1
    assert compared == sum(not expected(s, r)[1] for s in range(12) for r in range(BATCH))


def test_hosts_replace_the_same_records(split, whole):
    """However rows are dealt out to them."""
    made, losses = whole
    together = []
    for rows in (np.array([0, 5, 6, 11]), np.array([1, 2, 3, 4, 7, 8, 9, 10])):
        own, own_losses = batches(split, 4, first_step=3, rows=rows)
        together += own_losses
        for batch, part in zip(made[3:7], own, strict=True):
            assert all(np.array_equal(batch[name][rows], part[name]) for name in batch)
    places = {loss.place: loss for loss in together}
    assert places == {loss.place: loss for loss in losses if 4 <= loss.step <= 7}


def test_captions_alone_are_replaced_too(split):
    """What has captions serves, whatever its picture is."""
    (batch,), losses = batches(split, 1, paired_fraction=0.05, text_only_batch_size=46)
    assert batch["text_only"].any(axis=1).all()
    reasons = {loss.index: loss.reason for loss in losses if loss.stream == "text_only"}
    assert reasons.items() <= REASONS.items()
    assert set(reasons.values()) <= {damage.NO_CAPTION, damage.UNPARSABLE, damage.UNREADABLE}
    assert len(reasons) >= 3


def test_nothing_but_damage_ends_the_run(tmp_path):
    name = write_split(tmp_path / "split", [without_captions(number) for number in range(4)])
    with pytest.raises(InputError, match=r"100 records in a row .*example-.* no_caption"):
        batches(name, 1)
