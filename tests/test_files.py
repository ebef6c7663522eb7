"""Files that appear whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oner_jax.files import is_remote, split_names, write_whole


@pytest.mark.parametrize("content", ["text, ü\n", b"bytes \x00\xff"])
def test_what_is_written_is_read(tmp_path: Path, content: str | bytes):
    path = tmp_path / "file"
    write_whole(path, "before")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_whole(path, "text")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "file", "text")


def test_readers_beside_several_writers_see_whole_files(tmp_path: Path):
    path = tmp_path / "file"
    contents = [letter * 100_000 for letter in "abcd"]
    write_whole(path, contents[0])
    with ThreadPoolExecutor() as pool:
        written = [pool.submit(write_whole, path, content) for content in 20 * contents]
        while not all(future.done() for future in written):
            assert path.read_text() in contents
        for future in written:
            future.result()


def test_buckets_are_remote():
    assert is_remote("gs://bucket/run")
    assert not is_remote("/gs/bucket")


def test_names_with_commas_stay_whole_where_they_are_there(tmp_path):
    for name in ("width=1,depth=2", "plain", "a, b"):
        (tmp_path / name).mkdir()
    one, plain, spaced = (str(tmp_path / n) for n in ("width=1,depth=2", "plain", "a, b"))
    assert split_names(f"{one},{plain},{spaced}") == [one, plain, spaced]
    assert split_names(f"{plain}, {one}@30,@20") == [plain, f"{one}@30", "@20"]
    assert split_names(f"{one}=3,{plain}=1") == [f"{one}=3", f"{plain}=1"]
    assert split_names("cifar10,coco") == ["cifar10", "coco"]
    assert split_names("a,,b") == ["a", "", "b"]
