"""Parts of a split by name, and which splits of a directory are trained and evaluated on."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from configs import clip, finetune, ladder, oner, pods
from oner_jax.data import directory, held_out, records
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import TrainingData
from oner_jax.errors import InputError
from tests.data.samples import record, write_split


@given(percent=st.sampled_from(["50", "33", "7.5", "1", "0.1"]), size=st.integers(0, 5000))
def test_a_part_and_the_rest_are_the_whole(percent, size):
    part, rest = (held_out.parse(f"x/train[{sign}{percent}%]") for sign in ("", "-"))
    assert part is not None
    assert rest is not None
    assert (part.others, rest.others) == (rest, part)
    own, others = (one.indices(np.arange(one.size(size))).tolist() for one in (part, rest))
    assert sorted(own + others) == list(range(size))
    assert own == sorted(own)
    assert others == sorted(others)
    assert abs(len(own) - size / round(100 / float(percent))) < 1


def test_a_part_of_a_split_is_read_like_a_split(tmp_path):
    items = [record(number) for number in range(30)]
    name = write_split(tmp_path / "train", items)
    part, rest = (records.open_split(f"{name}[{percent}%]") for percent in ("10", "-10"))
    assert [item.id for item in part.records()] == ["example-5", "example-15", "example-25"]
    assert len(rest) == 27
    assert list(rest.records()) == [n for i, n in enumerate(items) if i % 10 != 5]
    assert len({part.content_hash, rest.content_hash, records.open_split(name).content_hash}) == 3
    assert list(part.captions(2)) == [items[5].captions[0], items[15].captions[1]]
    # Classifiers are not fitted on what they are scored on.
    assert records.training_split_beside(f"{name}[10%]") == f"{name}[-10%]"
    for bad, message in (("60", "at most 50"), ("0.01", "holds no examples")):
        with pytest.raises(InputError, match=message):
            records.open_split(f"{name}[{bad}%]")


@pytest.mark.parametrize(
    ("there", "trained_on", "evaluated_on"),
    [
        (("train", "val", "validation", "test"), "train", "val"),
        (("train", "validation", "test"), "train", "validation"),
        (("train", "dev"), "train", "dev"),
        (("train", "test"), "train", "test"),
        (("train", "new_vendor"), "train[-1%]", "train[1%]"),
        (("train",), "train[-1%]", "train[1%]"),
        ((), "train", "val"),  # named where it is opened and found missing
    ],
)
def test_what_is_evaluated_on(tmp_path, there, trained_on, evaluated_on):
    for name in there:
        write_split(tmp_path / name, [record(number) for number in range(120)], shard_bytes=10**6)
    found = directory.training_and_evaluation(epath.Path(tmp_path))
    assert found == (f"{tmp_path}/{trained_on}", f"{tmp_path}/{evaluated_on}")
    for module, size in ((oner, "tiny"), (clip, "tiny"), (finetune, "tiny"), (ladder, "tiny")):
        _is_used(module.get_config(f"{size},data={tmp_path}"), found)
    _is_used(pods.get_config(f"b16_v5e_64,data={tmp_path}"), found)
    if there:
        options = DataOptions(found[0], "embedded", image_size=16, text_tokens=8)
        pairs = TrainingData.open(options).pairs
        evaluated = evaluation_set(found[1], image_size=16)
        assert (pairs, len(evaluated)) == ((119, 1) if "[" in trained_on else (120, 120))


def _is_used(config, found: tuple[str, str]) -> None:
    assert config.data.train == found[0]
    assert config.data.evaluation.to_dict() == {"val": found[1]}


def test_a_directory_without_a_training_split_is_said(tmp_path):
    write_split(tmp_path / "validation", [record(0)])
    with pytest.raises(InputError, match=f"no such directory; there is {tmp_path}/validation"):
        records.open_split(directory.training_and_evaluation(epath.Path(tmp_path))[0])


def test_a_folder_that_is_called_like_a_part_is_a_folder(tmp_path: Path):
    name = write_split(tmp_path / "train[1%]", [record(0)])
    assert len(records.open_split(name)) == 1
