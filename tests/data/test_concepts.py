"""Concepts on their way from records to batches."""

import dataclasses
import itertools

import numpy as np
import pytest

from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import TrainingData, training_batches
from oner_jax.data.reading.kinds import PAIRS
from oner_jax.data.reading.mending import Mender
from oner_jax.data.reading.reader import Reader
from oner_jax.data.records import open_split
from oner_jax.data.tokenizer import Tokenizer, caption_hash
from oner_jax.errors import InputError
from tests.data.samples import record, write_split

NUMBER, BATCH, SEED = 20, 8, 1
# Every fourth record has no concept.
CONCEPTS = [f"concept {number % 3}" if number % 4 else "" for number in range(NUMBER)]


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> DataOptions:
    records = [
        record(number, metadata={"concept": concept} if concept else {})
        for number, concept in enumerate(CONCEPTS)
    ]
    # The first one is looked at for the name of the field.
    records = [*records[1:], records[0]]
    name = write_split(tmp_path_factory.mktemp("data") / "train", records)
    return DataOptions(
        name, "embedded", 16, text_tokens=12, reads_concepts=True, concept_field="concept"
    )


def batches(options: DataOptions, count: int, **sharding) -> list[dict]:
    arguments = {"global_batch_size": BATCH, "seed": SEED, "first_step": 0} | sharding
    return list(itertools.islice(training_batches(options, **arguments), count))


def expected(batch: dict) -> np.ndarray:
    names = [CONCEPTS[(int(index) + 1) % NUMBER] for index in batch["index"]]
    return np.where([name == "" for name in names], batch["caption_hash"], caption_hash(names))


def test_each_row_has_the_hash_of_its_concept_or_of_its_caption(options):
    for batch in batches(options, 4):
        assert batch["concept_hash"].dtype == np.uint32
        np.testing.assert_array_equal(batch["concept_hash"], expected(batch))
    plain = dataclasses.replace(options, reads_concepts=False)
    (without,), (batch,) = batches(plain, 1), batches(options, 1)
    assert batch.keys() - without.keys() == {"concept_hash"}
    assert all(np.array_equal(without[name], batch[name]) for name in without)


def test_a_host_and_an_example_made_again_have_the_same(options):
    (whole,), rows = batches(options, 1), np.array([1, 2, 5])
    (part,) = batches(options, 1, rows={"train": rows})
    np.testing.assert_array_equal(part["concept_hash"], whole["concept_hash"][rows])
    opened = TrainingData.open(options)
    reader = Reader(opened.mixtures["train"], Tokenizer.load("embedded"), options, SEED)
    mender = Mender(PAIRS, reader, options)
    for row in range(BATCH):
        assert mender.make(row).arrays["concept_hash"][0] == whole["concept_hash"][row]


def test_without_a_field_captions_are_concepts(options):
    (batch,) = batches(dataclasses.replace(options, concept_field=""), 1)
    np.testing.assert_array_equal(batch["concept_hash"], batch["caption_hash"])


def test_shuffled_captions_bring_their_concepts(options):
    (batch,) = batches(dataclasses.replace(options, shuffle_captions=True), 1)
    owner = {
        int(hashed): concept
        for number, concept in enumerate(CONCEPTS)
        for hashed in caption_hash(list(record(number).captions))
    }
    for hashed, concept in zip(batch["caption_hash"], batch["concept_hash"], strict=True):
        name = owner[int(hashed)]
        assert concept == (caption_hash([name])[0] if name else hashed)


def test_captions_without_pictures_have_no_concepts(options):
    alone = dataclasses.replace(options, text_only=options.train, text_only_batch_size=4)
    (batch,) = batches(alone, 1)
    np.testing.assert_array_equal(batch["concept_hash"], expected(batch))
    assert batch["text_only"].shape == (4, 12)


def test_the_embedded_records_name_their_concepts():
    options = DataOptions("embedded:train", "embedded", 8, 8, 1.0, reads_concepts=True)
    options = dataclasses.replace(options, concept_field="concept")
    (batch,) = batches(options, 1)
    records = list(open_split("embedded:train").records(batch["index"].tolist()))
    names = [record.metadata["concept"] for record in records]
    np.testing.assert_array_equal(batch["concept_hash"], caption_hash(names))


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ("image", "data.concept_field=image is not a text of a record"),
        ("concpt", "no such field .they have concept, label.; name one of these"),
    ],
)
def test_a_field_that_names_no_concept_is_refused(options, field, complaint):
    with pytest.raises(InputError, match=complaint):
        batches(dataclasses.replace(options, concept_field=field), 1)
