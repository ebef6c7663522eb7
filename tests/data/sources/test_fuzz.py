"""Whatever is in a file, reading it gives entries and raises nothing."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import sources
from oner_jax.errors import InputError
from tests.data.sources import written

EXAMPLES = written.examples()[:6]


def webdataset_file(folder: Path, _: list) -> Path:
    """A single archive."""
    return Path(written.write_webdataset(folder, EXAMPLES * 5).parent / "00000.tar")


def compressed_file(folder: Path, _: list) -> Path:
    """The same, compressed."""
    path = webdataset_file(folder, [])
    path = path.rename(path.with_suffix(".tar.gz"))
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return path


FILES = {
    "jsonl": written.write_jsonl,
    "csv": written.write_csv,
    "parquet": written.write_parquet,
    "webdataset": webdataset_file,
    "webdataset.gz": compressed_file,
}


@pytest.fixture(scope="module", params=FILES)
def file(request, tmp_path_factory):
    """A whole file of each kind, and its format."""
    path = FILES[request.param](tmp_path_factory.mktemp("fuzz") / "data", EXAMPLES)
    return path, path.read_bytes(), request.param.partition(".")[0]


def check(path: Path, content: bytes, source_format: str) -> int:
    """Reads a file of this content; the number of examples, of which all are whole."""
    path.write_bytes(content)
    try:
        parts = sources.open_source(str(path), source_format, examples_per_part=4)
    except InputError:  # that it does not say which field is what
        assert source_format in ("csv", "jsonl", "parquet")
        return 0
    examples = 0
    for part in parts:
        for entry in part.read():
            (entry.location + getattr(entry, "detail", "")).encode()
            if isinstance(entry, sources.RawExample):
                examples += 1
                repr(entry.metadata).encode()
                if entry.read_image:
                    assert entry.read_image()
    return examples


@given(content=st.binary(max_size=3000), magic=st.booleans())
def test_any_bytes(file, content, magic):
    path, whole, source_format = file
    start = whole[:1024] if magic else b""
    check(path, start + content, source_format)


@given(data=st.data())
def test_any_cut(file, data):
    path, whole, source_format = file
    check(path, whole[: data.draw(st.integers(0, len(whole)))], source_format)


@given(data=st.data())
def test_any_change(file, data):
    path, whole, source_format = file
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        content[place : place + len(piece)] = piece
    check(path, bytes(content), source_format)


def test_the_whole_file_is_read(file):
    path, whole, source_format = file
    count = check(path, whole, source_format)
    assert count == (10 if source_format == "webdataset" else len(EXAMPLES))
