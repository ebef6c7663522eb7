import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import files
from oner_jax.errors import InputError
from tests.data.sources import written
from tests.data.sources.test_formats import WRITERS
from tests.data.sources.written import compared, expected, read

REMOTE = "ram://"  # TensorFlow's file system in memory, which is reached like gs://


PIECES = st.one_of(
    st.sampled_from(["a", "data/", ".tar", "{x,y}", "{x,,y}", "{9..11}", "{08..11}", "{3..1}"]),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map("{{{0[0]:03d}..{0[1]}}}".format),
)


@given(st.lists(PIECES, max_size=4).map("".join))
def test_braces_are_those_of_a_shell(pattern):
    assert files.expand_braces(pattern) == list(braceexpand.braceexpand(pattern))


def test_braces_that_are_no_pattern_stay():
    assert files.expand_braces("a{b}c{}") == ["a{b}c{}"]


def test_ids_differ_between_files():
    def prefixes(*paths):
        return files.id_prefixes([files.File(path, 0) for path in paths])

    assert prefixes("data/00000.tar") == [""]
    assert prefixes("data/a.tar", "data/b.tar") == ["a/", "b/"]
    assert prefixes("gs://b/x/1.tar", "gs://b/y/1.tar") == ["x/1/", "y/1/"]
    assert prefixes("a.jsonl", "a.b.jsonl") == ["a/", "a.b/"]


def test_patterns_and_existing_names_with_signs_in_them(tmp_path):
    for name in ("b.tar", "a.tar", ".hidden.tar", "c.txt", "d[1].tar", "{1..2}.tar"):
        (tmp_path / name).write_bytes(b"123")
    wanted = [f"{tmp_path}/{name}" for name in ("a.tar", "b.tar", "d[1].tar", "{1..2}.tar")]
    suffixes = (".tar",)
    assert [f.path for f in files.matching_files(str(tmp_path), suffixes)] == wanted
    assert [f.path for f in files.matching_files(f"{tmp_path}/*.tar", suffixes)] == wanted
    assert [f.path for f in files.matching_files(wanted[2], suffixes)] == [wanted[2]]
    assert files.matching_files(wanted[3], suffixes) == [files.File(wanted[3], 3)]
    with pytest.raises(InputError, match=r"c\.tar: cannot be read \(No such file"):
        files.matching_files(f"{tmp_path}/{{a,b,c}}.tar", suffixes)


def copied(folder, name):
    """A copy of a folder in the remote file system."""
    target = f"{REMOTE}{name}"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            copy = f"{target}/{path.relative_to(folder)}"
            tf.io.gfile.makedirs(copy.rpartition("/")[0])
            with tf.io.gfile.GFile(copy, "wb") as file:
                file.write(path.read_bytes())
    return target


@pytest.mark.parametrize("kind", WRITERS)
def test_remote_sources_are_read_like_local_ones(tmp_path, kind):
    examples = written.examples()
    source = WRITERS[kind](tmp_path / "data", examples)
    remote = str(source).replace(f"{tmp_path}/data", copied(tmp_path / "data", f"remote-{kind}"))
    for size in (7, 1000):
        found = read(remote, examples_per_part=size)
        assert list(map(compared, found)) == list(map(expected, examples))


def test_remote_files_are_like_local_ones(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(content)
    local, remote = f"{tmp_path}/data/file", copied(tmp_path / "data", "file") + "/file"
    for path in (local, remote):
        assert files.file_at(path) == files.File(path, len(content))
        assert files.read_file(path) == content
        with files.open_file(path) as file:
            assert file.seek(2_000_000) == 2_000_000
            assert file.read(10) == content[2_000_000:2_000_010]
            assert file.seek(-7, 2) == len(content) - 7
            assert file.read() == content[-7:]
            assert file.seek(3) == file.tell() == 3
            assert file.readline() == content[3:11]
        missing = path + "-not"
        assert not files.exists(missing)
        with pytest.raises(FileNotFoundError):
            files.read_file(missing)
        with pytest.raises(InputError, match="file-not: cannot be read"):
            files.file_at(missing)


def test_remote_patterns(tmp_path):
    examples = written.examples()
    written.write_webdataset(tmp_path / "data", examples)
    target = copied(tmp_path / "data", "patterns")
    for name in (target, f"{target}/*.tar", f"{target}/0000{{0..2}}.tar"):
        assert len(read(name)) == 30
