"""Records as a source: what ingest wrote is read back as it was."""

import shutil

import pytest

from oner_jax.data import sources
from oner_jax.data.records import open_split
from oner_jax.errors import InputError
from tests.data.samples import record, write_split
from tests.data.sources import written


@pytest.mark.parametrize("examples_per_part", [1, 7, 1000])
def test_records_come_back_as_they_were(tmp_path, examples_per_part):
    items = [record(number) for number in range(10)]
    items.append(record(10, image=b"", height=0, width=0))
    split = write_split(tmp_path / "split", items)
    found = written.examples_of(written.read(split, examples_per_part=examples_per_part))
    assert [entry.read_image() if entry.read_image else b"" for entry in found] == [
        item.image for item in items
    ]
    assert [(entry.id, entry.captions, entry.label, entry.metadata) for entry in found] == [
        (item.id, item.captions, item.label, item.metadata) for item in items
    ]
    assert [entry.location for entry in found] == [f"{split}[{n}]" for n in range(11)]


def test_embedded_splits_have_names():
    parts = sources.open_source("embedded:val", examples_per_part=500)
    assert [part.examples for part in parts] == [500, len(open_split("embedded:val")) - 500]


def test_other_records_are_other_parts(tmp_path):
    write_split(tmp_path / "split", [record(0)])
    before = sources.open_source(str(tmp_path / "split"), examples_per_part=5)
    shutil.rmtree(tmp_path / "split")
    write_split(tmp_path / "split", [record(1)])
    after = sources.open_source(str(tmp_path / "split"), examples_per_part=5)
    assert repr(before) != repr(after)


def test_fields_of_records_are_not_chosen(tmp_path):
    split = write_split(tmp_path / "split", [record(0)])
    with pytest.raises(InputError, match="records have fields of their own"):
        sources.open_source(split, examples_per_part=5, names=sources.FieldNames(image="photo"))
