"""What holds for each format alike."""

import pickle

import pytest

from oner_jax.data import sources
from oner_jax.data.sources import FORMATS
from oner_jax.errors import InputError
from tests.data.sources import written

WRITERS = {
    "jsonl": written.write_jsonl,
    "csv": written.write_csv,
    "tsv": written.write_tsv,
    "parquet": written.write_parquet,
    "parquet_with_images": written.write_parquet_with_images,
    "folder": written.write_folder,
    "webdataset": written.write_webdataset,
    "tfrecord": written.write_tfrecord,
}
EXAMPLES = written.examples()


@pytest.fixture(scope="module", params=WRITERS)
def source(request, tmp_path_factory):
    """The thirty examples in each format."""
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param) / "data", EXAMPLES)


@pytest.mark.parametrize("examples_per_part", [1, 7, 1000])
def test_every_format_gives_the_same_examples(source, examples_per_part):
    found = written.read(source, examples_per_part=examples_per_part)
    assert list(map(written.compared, found)) == list(map(written.expected, EXAMPLES))
    assert len({entry.location for entry in found}) == 30


def test_parts_can_be_sent_to_another_process_and_tell_when_files_change(source):
    parts = sources.open_source(str(source), examples_per_part=7)
    again = pickle.loads(pickle.dumps(parts))
    assert [repr(part) for part in again] == [repr(part) for part in parts]
    assert all(isinstance(part, sources.Part) for part in parts)
    found = [entry for part in again for entry in part.read()]
    assert list(map(written.compared, found)) == list(map(written.expected, EXAMPLES))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_changed_file_changes_a_part(tmp_path, kind):
    source = WRITERS[kind](tmp_path / "data", EXAMPLES)
    before = sources.open_source(str(source), examples_per_part=7)
    read = (".jsonl", ".csv", ".tsv", ".parquet", ".tar", ".tfrecord", ".txt")
    changed = max(path for path in (tmp_path / "data").rglob("*") if path.suffix in read)
    changed.write_bytes(changed.read_bytes() + b"\n")
    after = sources.open_source(str(source), examples_per_part=7)
    assert repr(after) != repr(before)


def test_what_cannot_be_a_source_is_said(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name, message in {
        str(tmp_path / "none.jsonl"): "none.jsonl: cannot be read (No such file",
        str(tmp_path / "none"): "none: no such file or directory",
        str(tmp_path / "notes.docx"): "notes.docx: its format is not recognised; say which it is",
        str(tmp_path / "empty"): "empty: its format is not recognised",
        str(tmp_path / "*.tar"): "*.tar: no such file or directory",
    }.items():
        with pytest.raises(InputError) as error:
            sources.open_source(name, examples_per_part=10)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="'docx' is unknown; give one of tfds, "):
        sources.open_source(str(tmp_path), "docx", examples_per_part=10)


@pytest.mark.parametrize("key", FORMATS)
def test_a_format_that_is_asked_for_needs_its_files(tmp_path, key):
    for name in (tmp_path, tmp_path / "*.none"):
        with pytest.raises(InputError, match=r"; name (a file|another|the folder|one with)"):
            sources.open_source(str(name), key, examples_per_part=10)
