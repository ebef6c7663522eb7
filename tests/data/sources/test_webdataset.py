import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as peer
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.sources import FieldNames, Reason
from oner_jax.data.sources.webdataset import key_and_ending
from tests.data.samples import encoded, picture
from tests.data.sources import written
from tests.data.sources.test_tar_members import archive
from tests.data.sources.written import examples_of, read, reasons

IMAGE = encoded(picture(0), "JPEG")


def write(folder, members, name="00000.tar"):
    """An archive of these members."""
    path = folder / name
    content = archive(members)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return path


def sample(key, **files):
    """Image and text, or other files, of a key."""
    files = files or {"jpg": IMAGE, "txt": f"caption of {key}".encode()}
    return [(f"{key}.{ending}", content) for ending, content in files.items()]


def peer_samples(path) -> list[dict]:
    """What the webdataset library reads."""
    return list(peer.WebDataset(str(path), shardshuffle=False, empty_check=False))


def test_an_archive_is_read_as_by_the_webdataset_library(tmp_path):
    pattern = written.write_webdataset(tmp_path / "data", written.examples())
    wanted = peer_samples(pattern)
    found = examples_of(read(pattern))
    assert len(found) == len(wanted) == 30
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.id == json.loads(theirs["json"])["id"]
        assert theirs["__key__"] in ours.location
        assert ours.captions[0] == theirs["txt"].decode()
        assert ours.read_image is not None
        assert ours.read_image() in theirs.values()


# Neither hidden files, which the library takes for examples of the folder, nor empty endings.
NAMES = st.from_regex(r"(\./)?([abG_ß-]{1,3}/)?[abG_ß-]{1,3}(\.[abG_ß-]{1,2}){0,2}", fullmatch=True)


@given(st.lists(NAMES, max_size=10))
def test_files_belong_together_as_in_the_webdataset_library(tmp_path_factory, names):
    path = write(tmp_path_factory.mktemp("tar"), [(name, name.encode()) for name in names])
    try:
        wanted = peer_samples(path)
    except ValueError:  # it refuses a file that comes again
        return
    keys = [key_and_ending(name) for name in names]
    expected = {
        (s["__key__"], ending, s[ending]) for s in wanted for ending in s if ending[0] != "_"
    }
    ours = {
        (name[:2] * name.startswith("./") + split[0], split[1], name.encode())
        for name, split in zip(names, keys, strict=True)
        if split and split[1][0] != "_"
    }
    assert ours == expected


def test_order_of_files_and_other_files_do_not_matter(tmp_path):
    path = write(
        tmp_path,
        [
            ("README", b"about"),
            ("__meta__/x.jpg", IMAGE),
            *sample("a.b/one", cls=b"3", txt=b"\xef\xbb\xbffirst \n", npy=b"\x93NUMPY", JPEG=IMAGE),
            *sample("./two", **{"seg.png": b"mask", "png": IMAGE, "caption": b"second"}),
            ("._two.jpg", b"from a Mac"),
        ],
    )
    first, second = examples_of(read(path))
    assert (first.id, first.captions, first.metadata) == ("a.b/one", ("first",), {"cls": "3"})
    assert (second.id, second.captions, second.metadata) == ("two", ("second",), {})
    assert second.location == f"{path}: two"


def test_endings_and_fields_of_other_names(tmp_path):
    described = {"title": "main", "alt": ["other"], "nr": 4, "id": "x"}
    files = {
        "a.jpg": IMAGE,
        "jpg": b"other",
        "txt": b"unused",
        "json": json.dumps(described).encode(),
    }
    path = write(tmp_path, sample("one", **files))
    names = FieldNames(image="a.jpg", captions=("title", "alt"), id="nr")
    (found,) = examples_of(read(path, names=names))
    assert found.read_image is not None
    assert (found.id, found.read_image(), found.captions) == ("4", IMAGE, ("main", "other"))
    assert found.metadata == {"source_id": "x", "txt": "unused"}
    (texts,) = examples_of(read(path, names=FieldNames(image="none")))
    assert (texts.id, texts.read_image, texts.captions) == ("x", None, ("unused",))


def test_ids_hold_the_archive_where_there_are_several(tmp_path):
    for name in ("00000.tar", "00001.tar.gz", "00002.tgz"):
        write(tmp_path, sample("a") + sample("b"), name)
    found = examples_of(read(tmp_path))
    assert [entry.id for entry in found] == [
        *("00000/a", "00000/b", "00001.tar/a", "00001.tar/b", "00002/a", "00002/b"),
    ]
    assert [entry.id for entry in examples_of(read(tmp_path / "00002.tgz"))] == ["a", "b"]


def test_a_key_that_comes_again_is_another_example_of_that_id(tmp_path):
    members = sample("a") + sample("a") + sample("b") + sample("a")
    found = examples_of(read(write(tmp_path, members)))
    assert [entry.id for entry in found] == ["a", "a", "b", "a"]
    assert all(entry.captions and entry.read_image for entry in found)


DAMAGES = {
    "empty archive": ([], Reason.EMPTY_ARCHIVE),
    "no example in it": ([("README", b"x")], Reason.EMPTY_ARCHIVE),
    "empty image": (sample("x", jpg=b"", txt=b"text"), Reason.EMPTY_IMAGE),
    "nothing known": (sample("x", npy=b"\x93NUMPY"), Reason.MISSING_IMAGE),
    "nothing but JSON": (sample("x", json=b'{"url": "u"}'), Reason.MISSING_IMAGE),
    "text in latin-1": (sample("x", jpg=IMAGE, txt=b"caf\xe9"), Reason.INVALID_TEXT),
    "JSON in latin-1": (sample("x", jpg=IMAGE, json=b'{"a": "\xe9"}'), Reason.INVALID_TEXT),
    "empty JSON": (sample("x", jpg=IMAGE, txt=b"text", json=b""), Reason.BROKEN_ENTRY),
    "JSON of a list": (sample("x", jpg=IMAGE, txt=b"text", json=b"[1]"), Reason.BROKEN_ENTRY),
    "no such name": (sample("\udcff", jpg=IMAGE, txt=b"text"), Reason.INVALID_TEXT),
    "way out": (sample("../x", jpg=IMAGE), Reason.BROKEN_ENTRY),
    "not downloaded": (
        sample("x", jpg=IMAGE, json=b'{"status": "failed_to_resize", "error_message": "small"}'),
        Reason.NOT_DOWNLOADED,
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_dropped_by_reason_and_ends_nothing(tmp_path, kind):
    members, reason = DAMAGES[kind]
    archive_alone = reason == Reason.EMPTY_ARCHIVE
    around = ([], []) if archive_alone else (sample("a"), sample("b"))
    path = write(tmp_path, [*around[0], *members, *around[1]])
    found = read(path)
    assert reasons(found) == [reason]
    assert [e.id for e in examples_of(found)] == ([] if archive_alone else ["a", "b"])
    for entry in found:
        entry.location.encode()


def test_empty_and_foreign_files_are_no_archives(tmp_path):
    (tmp_path / "00000.tar").write_bytes(b"")
    (tmp_path / "00001.tar").write_bytes(b"<html>404 not found</html>" * 100)
    (tmp_path / "00002.tar.gz").write_bytes(b"<html>404 not found</html>" * 100)
    write(tmp_path, sample("a"), "00003.tar")
    found = read(tmp_path)
    assert reasons(found) == [
        Reason.EMPTY_ARCHIVE,
        Reason.TRUNCATED_ARCHIVE,
        Reason.TRUNCATED_ARCHIVE,
    ]
    assert [entry.id for entry in examples_of(found)] == ["00003/a"]


def test_half_an_example_is_left_to_the_reader(tmp_path):
    members = (
        sample("a", jpg=IMAGE) + sample("b", txt=b"x" * 100_000) + sample("c", jpg=IMAGE, txt=b"")
    )
    a, b, c = examples_of(read(write(tmp_path, members)))
    assert (a.captions, b.read_image, c.captions) == ((), None, ())
    assert len(b.captions[0]) == 100_000


@given(st.data())
def test_what_is_whole_before_a_cut_is_kept(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("tar"), [m for key in "abcdef" for m in sample(key)])
    content = path.read_bytes()
    whole = examples_of(read(path))
    path.write_bytes(content[: data.draw(st.integers(1, len(content) // 512)) * 512 - 100])
    found = read(path)
    kept = examples_of(found)
    assert [e.captions for e in kept] == [e.captions for e in whole[: len(kept)]]
    assert all(entry.read_image and entry.read_image() == IMAGE for entry in kept)
    lost = reasons(found)
    assert set(lost) <= {Reason.TRUNCATED_ARCHIVE}
    assert lost or len(kept) == 6
    assert len(lost) <= 2  # the archive, and the example that the cut goes through


def write_log(folder, rows):
    """What img2dataset writes beside an archive."""
    path = folder / "00000.parquet"
    columns = ("key", "url", "status", "error_message")
    pq.write_table(
        pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path
    )
    return path


LOG = [
    ("a", "https://a", "success", None),
    ("b", "https://b", "failed_to_download", "HTTP Error 404: Not Found"),
    ("c", "https://c", "success", None),
    ("d", "https://d", "failed_to_resize", None),
]


def test_what_was_never_downloaded_is_counted(tmp_path):
    write(tmp_path, sample("a") + sample("c"))
    log = write_log(tmp_path, LOG)
    (tmp_path / "00000_stats.json").write_text("{}")
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == ["a", "c"]
    assert reasons(found) == [Reason.NOT_DOWNLOADED] * 2
    assert [(entry.location, entry.detail) for entry in found[2:]] == [
        (f"{log}: b", "HTTP Error 404: Not Found"),
        (f"{log}: d", "failed_to_resize"),
    ]


def test_a_log_names_what_a_cut_has_taken(tmp_path):
    path = write(tmp_path, sample("a") + sample("c") + sample("e"))
    write_log(tmp_path, [*LOG, ("e", "https://e", "success", None)])
    path.write_bytes(path.read_bytes()[: 512 * 6])
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == ["a"]
    assert sorted(reasons(found)) == [Reason.NOT_DOWNLOADED] * 2 + [Reason.TRUNCATED_ARCHIVE] * 2
    assert [e.location[-3:] for e in found if reasons([e]) == [Reason.TRUNCATED_ARCHIVE]] == [
        ": c",
        ": e",
    ]


def test_an_unfinished_log_or_another_table_takes_nothing_away(tmp_path):
    write(tmp_path, sample("a"))
    log = write_log(tmp_path, LOG)
    log.write_bytes(log.read_bytes()[:-20])
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == ["a"]
    assert reasons(found) == [Reason.TRUNCATED_ARCHIVE]
    pq.write_table(pa.table({"key": ["b"]}), log)
    assert reasons(read(tmp_path)) == []


def test_random_damage_is_never_fatal_and_keeps_the_rest(tmp_path):
    generator = random.Random(0)
    content = archive([m for n in range(40) for m in sample(f"{n:03d}")])
    path = tmp_path / "00000.tar"
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        found = read(path)
        assert len(examples_of(found)) >= 30
