import json
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import records
from oner_jax.data.host_tensorflow import tf
from oner_jax.errors import InputError
from tests.data.samples import record, write_split

RECORDS = [record(number) for number in range(23)]


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> records.Split:
    return records.open_split(write_split(tmp_path_factory.mktemp("data") / "train", RECORDS))


def test_records_survive_the_disk(split):
    assert len(split.manifest["shards"]) > 2
    assert len(split) == len(RECORDS)
    assert list(split.records()) == RECORDS
    assert list(split.captions())[:2] == ["thing 0", "the thing numbered 0"]


def test_read_keeps_the_order_asked_for(split):
    indices = [*np.random.default_rng(0).permutation(len(RECORDS)), 3, 3]
    found = [records.Record.parse(serialised) for serialised in split.read(indices)]
    assert found == [RECORDS[i] for i in indices]


def test_threads_may_read_at_once(split):
    wanted = [list(np.random.default_rng(seed).integers(0, 23, 8)) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(split.read, wanted))
    for indices, batch in zip(wanted, batches, strict=True):
        assert [records.Record.parse(s).id for s in batch] == [f"example-{i}" for i in indices]


def test_a_record_is_a_tensorflow_example(split):
    features = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "height": tf.io.FixedLenFeature([], tf.int64),
        "captions": tf.io.VarLenFeature(tf.string),
        "source": tf.io.FixedLenFeature([], tf.string),
    }
    example = tf.io.parse_single_example(split.read([4])[0], features)
    assert example["id"].numpy() == b"example-4"
    assert example["height"].numpy() == 24
    assert list(example["captions"].values.numpy()) == [b"thing 4", b"the thing numbered 4"]
    assert example["source"].numpy() == b"tests"


def test_same_records_give_same_bytes(split, tmp_path):
    again = records.open_split(write_split(tmp_path / "again", RECORDS))
    assert again.content_hash == split.content_hash
    for shard in split.manifest["shards"]:
        file = shard["file"]
        assert (again.directory / file).read_bytes() == (split.directory / file).read_bytes()
    changed = [*RECORDS[:-1], record(22, captions=("something else",))]
    other = records.open_split(write_split(tmp_path / "other", changed))
    assert other.content_hash != split.content_hash


@pytest.mark.parametrize(
    "changes", [{"captions": ()}, {"image": b"", "height": 0, "width": 0}], ids=["image", "text"]
)
def test_an_image_or_a_text_alone_is_a_record(changes):
    alone = records.Record(**vars(record(0)) | changes)
    assert records.Record.parse(alone.serialise()) == alone


@pytest.mark.parametrize(
    "changes",
    [{"captions": (), "image": b""}, {"metadata": {"image": "x"}}],
    ids=["nothing", "metadata"],
)
def test_a_record_of_nothing_or_with_a_clash_cannot_be_made(changes):
    with pytest.raises(ValueError, match="record example-0"):
        records.Record(**vars(record(0)) | changes)


def test_missing_splits_name_what_is_there(tmp_path):
    for name in ("train", "val"):
        write_split(tmp_path / "set" / name, RECORDS[:1])
    (tmp_path / "empty").mkdir()
    expected = {
        str(tmp_path / "nowhere"): "no such directory",
        str(tmp_path / "empty"): "no manifest.json",
        str(tmp_path / "set"): f"there is {tmp_path}/set/train, {tmp_path}/set/val",
        "embedded:test": "there is embedded:new_vendor, embedded:train, embedded:val",
    }
    for name, message in expected.items():
        with pytest.raises(InputError) as error:
            records.open_split(name)
        assert message in str(error.value)
        assert name in str(error.value)


def test_damaged_splits_are_refused(tmp_path):
    def fresh(name: str):
        write_split(tmp_path / name, RECORDS)
        return tmp_path / name

    def refused(directory, reason):
        with pytest.raises(InputError, match=reason):
            records.open_split(str(directory))

    directory = fresh("truncated")
    shard = directory / "shard-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(directory, "shard-00001.array_record has .* bytes instead of")

    directory = fresh("missing")
    (directory / "shard-00000.array_record").unlink()
    refused(directory, "shard-00000.array_record is missing")

    directory = fresh("unparsable")
    (directory / "manifest.json").write_text("{")
    refused(directory, "is damaged")

    for key, value, reason in [
        ("format_version", 99, "version 99"),
        ("examples", 0, "no examples"),
    ]:
        directory = fresh(key)
        manifest = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps(manifest | {key: value}))
        refused(directory, reason)


def test_shards_on_object_storage_are_looked_at_together(tmp_path, monkeypatch):
    """Each answer of a bucket takes as long as many: here none comes before all are asked for."""
    local = Path(write_split(tmp_path / "train", RECORDS, shard_bytes=2000))
    shards = json.loads((local / records.MANIFEST).read_text())["shards"]
    together = threading.Barrier(len(shards), timeout=60)

    def here(path: epath.Path) -> Path:
        return Path(str(path).replace("gs://bucket", str(tmp_path)))

    def stat(path: epath.Path) -> SimpleNamespace:
        together.wait()
        return SimpleNamespace(length=here(path).stat().st_size)

    bucket = type(epath.Path("gs://bucket"))
    monkeypatch.setattr(bucket, "exists", lambda path: here(path).exists())
    monkeypatch.setattr(bucket, "read_text", lambda path: here(path).read_text())
    monkeypatch.setattr(bucket, "stat", stat)
    opened = []
    monkeypatch.setattr(records, "ArrayRecordDataSource", lambda paths: opened.append(paths))
    assert 8 <= len(shards) <= 64
    records.open_split("gs://bucket/train")
    assert opened == [
        [f"gs://bucket/train/{shard['file']}[0:{shard['examples']}]" for shard in shards]
    ]


def test_as_many_shards_as_there_are_may_be_open(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    name = write_split(tmp_path / "train", RECORDS)
    code = (
        "import resource\n"
        "from oner_jax.data import records\n"
        "records._OTHER_OPEN_FILES = 200\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        f"records.open_split({name!r})\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 201))\n"
        f"records.open_split({name!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "shards, but a process may open 201 files only: raise that limit" in result.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=12), maximum=st.integers(1, 80))
def test_captions_are_sampled_evenly(tmp_path_factory, counts, maximum):
    items = [
        record(n, captions=tuple(f"{n} {k}" for k in range(count)))
        for n, count in enumerate(counts)
    ]
    split = records.open_split(write_split(tmp_path_factory.mktemp("split") / "data", items))
    everything = list(split.captions())
    sampled = list(split.captions(maximum))
    assert len(sampled) <= maximum
    assert sampled == [caption for caption in everything if caption in set(sampled)]
    # Every run of consecutive records has its share, up to what it holds and one for rounding.
    taken = [sum(c.split()[0] == str(n) for c in sampled) for n in range(len(counts))]
    share = maximum / len(counts)
    for own, count in zip(taken, counts, strict=True):
        assert min(count, int(share)) <= own <= min(count, -(-maximum // len(counts)))
    if share >= max(counts):
        assert sampled == everything
