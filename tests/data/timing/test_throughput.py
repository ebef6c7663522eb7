"""What the input's benchmark compares does the same work (its figures: tests/test_bench.py)."""

import io
import itertools
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import images, records
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.timing import delivery, throughput, webdataset_peer
from oner_jax.data.timing.throughput import InputShape, Material
from oner_jax.data.tokenizer import Tokenizer

SHAPE = InputShape(image_size=32, text_tokens=12, crop_min_fraction=1.0, batch_size=4)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return throughput.write_material(tmp_path_factory.mktemp("material"), pictures=6)


def test_records_archives_and_memory_hold_the_same_pairs(material):
    stored = list(records.open_split(material.split).records())
    assert [record.image for record in stored] == material.files
    assert {(record.height, record.width) for record in stored} == {(480, 640)}
    archived: dict[str, bytes] = {}
    for path in material.archives:
        with tarfile.open(path) as archive:
            for each in archive:
                content = archive.extractfile(each)
                assert content is not None
                archived[each.name] = content.read()
    assert len(archived) == 2 * len(stored)
    for number, record in enumerate(stored):
        assert archived[f"{number:09d}.jpg"] == record.image
        assert archived[f"{number:09d}.txt"].decode() == record.captions[0]


def test_the_bare_loop_makes_the_pixels_of_training(material):
    for file, box in zip(material.files, [[0, 0, 480, 640], [7, 9, 400, 300]] * 3, strict=True):
        picture, frame = tf.constant(file), tf.constant(box)
        bare = throughput._decode_and_resize(224, picture, frame)
        route = images.routes(picture, frame, 224)
        ours = images.decode_crop_resize(picture, frame, route, tf.constant(False), 224)
        assert np.array_equal(bare, ours)


def test_contestants_make_what_they_are_asked_for(material):
    made = []

    def counted():
        for batch in throughput.training_batches(material.split, SHAPE):
            made.append(len(batch["image"]))
            yield batch

    spent = delivery.Delivery(counted(), batch_size=4).take(10)
    assert made == [4] * (delivery.READY_BATCHES + 3)
    assert spent.seconds > 0
    boxes = np.tile(np.array([[0, 0, 480, 640]], np.int32), (6, 1))
    shapes = []

    def make(file, box):
        shapes.append(box.shape)
        return throughput._decode_only(file, box)

    assert throughput.BareLoop(material.files, boxes, make).take(20).cpu_seconds > 0
    assert shapes == [[4]]  # traced once, run in TensorFlow


def test_the_peer_makes_the_same_pictures_and_ids(material):
    pytest.importorskip("webdataset")
    stream = webdataset_peer.batches(
        material.archives,
        image_size=32,
        text_tokens=12,
        crop_min_fraction=1.0,
        batch_size=6,
    )
    stored = list(records.open_split(material.split).records())
    whole = [
        np.asarray(Image.open(io.BytesIO(file)).resize((32, 32), Image.Resampling.BILINEAR))
        for file in material.files
    ]
    ids = Tokenizer.load("embedded").encode([record.captions[0] for record in stored], 12)
    for pictures, text in itertools.islice(stream, 3):
        assert pictures.shape == (6, 32, 32, 3)
        assert pictures.dtype == np.uint8
        order = [int(np.flatnonzero((ids == row).all(axis=1))[0]) for row in text]
        assert sorted(order) == list(range(6))
        # Crops of the whole area vary in shape alone, and half of them are mirrored.
        for picture, number in zip(pictures.astype(float), order, strict=True):
            errors = [np.abs(each - whole[number]).mean() for each in (picture, picture[:, ::-1])]
            others = np.abs(picture - whole[number - 1]).mean()
            assert min(errors) < others


@pytest.mark.parametrize(("width", "height"), [(640, 480), (20, 2000), (2000, 20), (1, 1)])
def test_the_peers_crops_lie_inside(width, height):
    random.seed(0)
    for _ in range(200):
        left, top, right, bottom = webdataset_peer._crop_box(width, height, 0.5)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if (width, height) == (640, 480):
            assert 0.49 < (right - left) * (bottom - top) / (640 * 480) <= 1


def test_workers_make_batches_until_closed(material):
    pytest.importorskip("webdataset")
    workers = webdataset_peer.Workers(
        2, material.archives, image_size=32, text_tokens=12, crop_min_fraction=0.5, batch_size=4
    )
    assert workers.take(16).cpu_seconds > 0
    workers.close()
    assert [process.exitcode for process in workers._processes] == [0, 0]


def test_memory_is_that_of_this_process():
    before = delivery.resident_bytes()
    ballast = np.ones(64 * 2**20, np.uint8)
    assert delivery.resident_bytes() - before > 0.9 * ballast.nbytes


@pytest.mark.soak
def test_memory_stays_flat(tmp_path: Path):
    lines = list(throughput.soak(tmp_path, InputShape(), seconds=150))
    assert lines[-1]["seconds"] >= 150
    # The first seconds fill what the pipeline keeps ready.
    resident = np.array([line["resident_bytes"] for line in lines if line["seconds"] > 30])
    assert resident.max() < 2 * 2**30
    middle = len(resident) // 2
    assert resident[middle:].mean() < 1.05 * resident[:middle].mean()
