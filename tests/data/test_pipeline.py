import collections
import dataclasses
import io
import itertools
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from oner_jax.data import records
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import training_batches
from oner_jax.data.reading import order
from oner_jax.data.records import Record
from oner_jax.data.tokenizer import Tokenizer, caption_hash
from oner_jax.errors import InputError
from tests.data.samples import encoded, on_white, record, write_split

NUMBER = 23
BATCH = 8


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> DataOptions:
    records = [record(number) for number in range(NUMBER)]
    name = write_split(tmp_path_factory.mktemp("data") / "train", records)
    return DataOptions(name, "embedded", image_size=16, text_tokens=12, flip=True)


def batches(options: DataOptions, count: int, first_step: int = 0, **sharding) -> list[dict]:
    arguments = {"global_batch_size": BATCH, "seed": 1, "first_step": first_step} | sharding
    return list(itertools.islice(training_batches(options, **arguments), count))


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in first | second)


def test_a_batch_holds_the_examples_of_its_positions(options):
    tokenizer = Tokenizer.load("embedded")
    for step, batch in enumerate(batches(options, 4)):
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "image": ((BATCH, 16, 16, 3), "uint8"),
            "text": ((BATCH, 12), "int32"),
            "caption_hash": ((BATCH,), "uint32"),
            "index": ((BATCH,), "int64"),
        }
        positions = np.arange(step * BATCH, (step + 1) * BATCH)
        expected, _ = order.example_indices(positions, NUMBER, seed=1)
        assert list(batch["index"]) == list(expected)
        for row, index in enumerate(batch["index"]):
            captions = list(record(int(index)).captions)
            texts = tokenizer.encode(captions, 12)
            chosen = [np.array_equal(batch["text"][row], text) for text in texts].index(True)
            assert batch["caption_hash"][row] == caption_hash(captions)[chosen]


def test_an_uncropped_image_is_the_picture_or_its_mirror(options):
    # A crop of all of the area still varies in shape, so compare coarse colours.
    whole = dataclasses.replace(options, crop_min_fraction=1.0, image_size=8)
    mirrored = 0
    for batch in batches(whole, 6):
        for image, index in zip(batch["image"].astype(float), batch["index"], strict=True):
            source = Image.fromarray(on_white(record(int(index)).image))
            plain = np.asarray(source.resize((8, 8), Image.Resampling.BOX), float)
            errors = [np.abs(image - plain).mean(), np.abs(image - plain[:, ::-1]).mean()]
            assert min(errors) < 20
            mirrored += errors[1] < errors[0]
    assert 0.3 < mirrored / (6 * BATCH) < 0.7


@pytest.mark.parametrize("first_step", [1, 5])
def test_starting_at_a_step_is_never_having_stopped(options, first_step):
    whole = batches(options, first_step + 3)
    resumed = batches(options, 3, first_step=first_step)
    assert all(map(same, whole[first_step:], resumed))
    assert not same(whole[first_step], whole[first_step + 1])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_the_same_global_batches(options, hosts):
    whole = batches(options, 3)
    shares = [np.arange(BATCH)[host::hosts] for host in range(hosts)]
    parts = [batches(options, 3, rows={"train": rows}) for rows in shares]
    for step, batch in enumerate(whole):
        for rows, part in zip(shares, parts, strict=True):
            assert same({key: value[rows] for key, value in batch.items()}, part[step])


def test_threads_change_nothing(options):
    one = dataclasses.replace(options, threads=1)
    assert all(map(same, batches(options, 4), batches(one, 4)))


def test_an_epoch_shows_every_example_once_and_all_captions_in_time(options):
    rows = batches(options, NUMBER)  # as many epochs as a batch has rows
    indices = np.concatenate([batch["index"] for batch in rows])
    for epoch in indices.reshape(BATCH, NUMBER):
        assert sorted(epoch) == list(range(NUMBER))
    hashes = np.concatenate([batch["caption_hash"] for batch in rows])
    shown = collections.Counter(zip(indices.tolist(), hashes.tolist(), strict=True))
    first = [int(caption_hash([record(i).captions[0]])[0]) for i in range(NUMBER)]
    share = sum(shown[i, first[i]] for i in range(NUMBER)) / len(indices)
    assert 0.4 < share < 0.6


def test_captions_that_name_a_side_keep_their_picture(tmp_path):
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, 8:] = 255
    image = {"image": encoded(half, "PNG"), "height": 16, "width": 16}
    records = [
        record(0, captions=("arrow", "Left arrow"), **image),
        record(1, captions=("arrow", "a bright arrow"), **image),
    ]
    name = write_split(tmp_path / "train", records)
    options = DataOptions(name, "embedded", image_size=16, text_tokens=8, flip=True)
    mirrored = collections.defaultdict(list)
    for batch in batches(options, 12):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            mirrored[index].append(image[:, 0].mean() > image[:, -1].mean())
    assert not any(mirrored[0])
    assert 0.25 < np.mean(mirrored[1]) < 0.75


def test_shuffled_captions_are_a_fixed_derangement(options):
    shuffled = dataclasses.replace(options, shuffle_captions=True)
    owner = {
        int(hashed): number
        for number in range(NUMBER)
        for hashed in caption_hash(list(record(number).captions))
    }
    given: dict[int, int] = {}
    for plain, batch in zip(batches(options, 9), batches(shuffled, 9), strict=True):
        assert np.array_equal(plain["image"], batch["image"])
        for index, hashed in zip(batch["index"], batch["caption_hash"], strict=True):
            assert given.setdefault(int(index), owner[int(hashed)]) == owner[int(hashed)]
    assert sorted(given) == sorted(given.values()) == list(range(NUMBER))
    assert all(index != other for index, other in given.items())


def test_what_cannot_work_is_refused_at_once(options, tmp_path):
    one = dataclasses.replace(options, train=write_split(tmp_path / "one", [record(0)]))
    with pytest.raises(InputError, match="at least two examples"):
        batches(dataclasses.replace(one, shuffle_captions=True), 1)
    with pytest.raises(InputError, match="no such directory"):
        batches(dataclasses.replace(options, train=str(tmp_path / "nowhere")), 1)
    with pytest.raises(InputError, match="tokenizer"):
        batches(dataclasses.replace(options, tokenizer=str(tmp_path / "none")), 1)
    # A batch larger than the dataset is no mistake: it spans epochs.
    assert list(batches(one, 1)[0]["index"]) == [0] * BATCH


def test_evaluation_set_is_the_split_in_order():
    examples = evaluation_set("embedded:val", image_size=32)
    assert len(examples) == len(examples.ids) == len(set(examples.ids)) == 889
    assert examples.labels[0] == examples.captions[0][0] == "keycap 2"
    assert examples.metadata[0]["source"] == "noto"
    stream = list(examples.image_batches(250))
    assert [batch.shape for batch in stream] == [(250, 32, 32, 3)] * 3 + [(139, 32, 32, 3)]
    images = np.concatenate(stream).astype(int)
    stored = list(examples.split.records())
    for row in range(0, 889, 97):  # 96 px to 32: the mean of 3 x 3 pixels
        with Image.open(io.BytesIO(stored[row].image)) as image:
            side = image.width
        if side == 96:
            pixels = on_white(stored[row].image).astype(float)
            expected = pixels.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
            assert np.abs(images[row] - expected).max() < 1.5


def test_evaluation_crops_the_centre(tmp_path):
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = (200, 100, 50)
    item = record(0, image=encoded(stripes, "PNG"), height=10, width=30)
    examples = evaluation_set(write_split(tmp_path / "wide", [item]), image_size=5)
    (batch,) = examples.image_batches(4)
    assert np.array_equal(batch, np.broadcast_to([200, 100, 50], (1, 5, 5, 3)))


def test_options_of_a_config():
    config = ConfigDict(
        {
            "data": {
                "train": "embedded:train",
                "tokenizer": "embedded",
                "crop_min_fraction": 0.7,
                "evaluation": {"val": "embedded:val"},
                "shuffle_captions": True,
            },
            "model": {"image_size": 48, "text_tokens": 20, "width": 64},
        }
    )
    assert DataOptions.from_config(config) == DataOptions(
        "embedded:train", "embedded", 48, 20, crop_min_fraction=0.7, shuffle_captions=True
    )


def test_the_rest_of_the_pairs_gives_captions_and_pictures_alone():
    options = DataOptions(
        train="embedded:val",
        tokenizer="embedded",
        image_size=16,
        text_tokens=8,
        paired_fraction=0.25,
        text_only_batch_size=64,
        image_only_batch_size=16,
        crop_min_fraction=1.0,
    )
    split = records.open_split("embedded:val")
    tokenizer = Tokenizer.load("embedded")
    batches = training_batches(options, global_batch_size=32, seed=3, first_step=0)
    seen = [next(batches) for _ in range(20)]
    paired = set(np.concatenate([batch["index"] for batch in seen]).tolist())
    assert len(paired) == round(0.25 * len(split))
    unpaired = [r for i, r in enumerate(split.records()) if i not in paired]
    possible = {
        row.tobytes()
        for record in unpaired
        for row in tokenizer.encode(list(record.captions), options.text_tokens)
    }
    texts = np.concatenate([batch["text_only"] for batch in seen])
    assert texts.shape == (20 * 64, 8)
    assert {row.tobytes() for row in texts} <= possible
    pictures = np.concatenate([batch["image_only"] for batch in seen])
    assert pictures.shape == (20 * 16, 16, 16, 3)
    # No two are the same one, as 320 of 667 were shown.
    assert len({picture.tobytes() for picture in pictures}) > 300
    again = next(training_batches(options, global_batch_size=32, seed=3, first_step=7))
    assert same(again, seen[7])


def test_pictures_and_captions_alone_are_of_the_data_that_are_named(tmp_path):
    pictures = [record(number) for number in range(40, 50)]
    pictures = [dataclasses.replace(item, captions=()) for item in pictures]
    texts = [Record(f"text-{number}", b"", 0, 0, (f"only text {number}",)) for number in range(7)]
    options = DataOptions(
        train=write_split(tmp_path / "pairs", [record(number) for number in range(5)]),
        image_only=write_split(tmp_path / "pictures", pictures),
        text_only=write_split(tmp_path / "texts", texts),
        tokenizer="embedded",
        image_size=8,
        text_tokens=8,
        image_only_batch_size=5,
        text_only_batch_size=7,
        crop_min_fraction=1.0,
    )
    batches = training_batches(options, global_batch_size=4, seed=0, first_step=0)
    both = [next(batches) for _ in range(2)]
    expected = Tokenizer.load("embedded").encode([text.captions[0] for text in texts], 8)
    for batch in both:
        # An epoch of the captions a step.
        assert sorted(map(bytes, batch["text_only"])) == sorted(map(bytes, expected))
    shown = set()
    for image in np.concatenate([batch["image_only"] for batch in both]).astype(float):
        errors = []
        for item in pictures:
            source = Image.fromarray(on_white(item.image))
            plain = np.asarray(source.resize((8, 8), Image.Resampling.BOX), float)
            errors.append(np.abs(image - plain).mean())
        assert min(errors) < 20
        shown.add(int(np.argmin(errors)))
    assert shown == set(range(10)), "an epoch of the pictures"
    assert not batches.take_losses()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"text_only_batch_size": 4}, "data.text_only_batch_size=4: name its data"),
        ({"image_only": "embedded:val"}, "data.image_only=embedded:val is never read"),
        ({"paired_fraction": 1.5}, "data.paired_fraction=1.5"),
        ({"image_only_batch_size": -1}, "data.image_only_batch_size=-1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, changes, named):
    with pytest.raises(InputError, match=re.escape(named)):
        dataclasses.replace(options, **changes)
