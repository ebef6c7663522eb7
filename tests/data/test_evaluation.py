"""A split as evaluation reads it."""

import dataclasses

from oner_jax.data.evaluation import evaluation_set
from tests.data.samples import record, write_split


def test_texts_in_order_and_which_images_are_equal(tmp_path):
    items = [record(number) for number in (0, 1, 2)]
    items += [dataclasses.replace(record(3), image=record(1).image), record(0)]
    found = evaluation_set(write_split(tmp_path / "split", items), image_size=16)
    assert found.ids == [item.id for item in items]
    assert found.captions == [list(item.captions) for item in items]
    assert found.labels == [item.label for item in items]
    assert found.metadata == [{"source": "tests"}] * 5
    assert found.first_equal.tolist() == [0, 1, 2, 1, 0]
