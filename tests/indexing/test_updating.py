"""A collection that has changed is brought up to date: no stale row, and nothing embedded twice."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import oner_jax
from oner_jax import embed, search
from oner_jax.files import held_folder, replace_folder
from oner_jax.indexing import making
from oner_jax.indexing.making import Made, make_embeddings, parts_of
from oner_jax.indexing.work import Work
from tests.data.samples import encoded, picture, run_program
from tests.runs import write_run

NUMBER = 7
SIDES = (40, 48)
Pairs = dict[str, tuple[np.ndarray, str]]  # pixels and caption by name


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("updating") / "run", steps=(10,))


@pytest.fixture(scope="module")
def model(run) -> oner_jax.Model:
    return oner_jax.load(run, batch_size=8)


def some_pairs() -> Pairs:
    return {f"{n}": (picture(n, *SIDES), f"thing {n}") for n in range(NUMBER)}


def content(pixels: np.ndarray) -> bytes:
    """Files of the same size whatever is in them."""
    return encoded(pixels, "BMP")


def as_folder(folder: Path, pairs: Pairs) -> Path:
    """Written with the same times each time, as copies that keep them are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, (pixels, caption) in pairs.items():
        for path, file in (
            (folder / f"{name}.bmp", content(pixels)),
            (folder / f"{name}.txt", caption.encode()),
        ):
            path.write_bytes(file)
            os.utime(path, (10**9, 10**9))
    return folder


def as_jsonl(folder: Path, pairs: Pairs) -> Path:
    as_folder(folder, pairs)
    lines = [
        json.dumps({"id": name, "image": f"{name}.bmp", "caption": caption})
        for name, (_, caption) in pairs.items()
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (10**9, 10**9))
    return path


def as_tar(folder: Path, pairs: Pairs) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name, (pixels, caption) in pairs.items():
            for ending, file in (("bmp", content(pixels)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(file)
                archive.addfile(member, io.BytesIO(file))
    os.utime(folder / "shard.tar", (10**9, 10**9))
    return folder / "shard.tar"


LAYOUTS = {"folder": as_folder, "jsonl": as_jsonl, "tar": as_tar}


# Each gives how many rows have to be embedded, and how many removed.


def changed_picture(pairs: Pairs) -> tuple[int, int]:
    pairs["3"] = (picture(99, *SIDES), pairs["3"][1])
    return 1, 1


def changed_caption(pairs: Pairs) -> tuple[int, int]:
    pairs["3"] = (pairs["3"][0], "thong 3")
    return 1, 1


def one_more(pairs: Pairs) -> tuple[int, int]:
    pairs["03"] = (picture(98, *SIDES), "one more")
    return 1, 0


def one_gone(pairs: Pairs) -> tuple[int, int]:
    del pairs["3"]
    return 0, 1


def swapped(pairs: Pairs) -> tuple[int, int]:
    pairs["2"], pairs["5"] = (pairs["5"][0], pairs["2"][1]), (pairs["2"][0], pairs["5"][1])
    return 2, 2


def nothing(pairs: Pairs) -> tuple[int, int]:
    return 0, 0


def made(model, source: Path, out: Path, view: str, file_format: str) -> Made:
    parts = parts_of(str(source), "", model.batch_size)
    return make_embeddings(
        model, parts, view, out, file_format=file_format, source="the collection"
    )


def read(out: Path) -> tuple[list[dict], np.ndarray]:
    if (out / "embeddings.npy").exists():
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        return rows, np.load(out / "embeddings.npy")
    table = pyarrow.parquet.read_table(out / "embeddings.parquet").to_pylist()
    vectors = np.array([row.pop("embedding") for row in table], np.float32)
    return table, vectors


@pytest.mark.parametrize(
    ("layout", "view", "file_format"),
    [("folder", "image", "npy"), ("jsonl", "joint", "parquet"), ("tar", "joint", "npy")],
)
@pytest.mark.parametrize(
    "change", [changed_picture, changed_caption, one_more, one_gone, swapped, nothing]
)
def test_the_result_is_that_of_a_new_one(
    layout, view, file_format, change: Callable, model, tmp_path
):
    pairs = some_pairs()
    source = LAYOUTS[layout](tmp_path / "photos", pairs)
    first = made(model, source, tmp_path / "out", view, file_format)
    assert (first.embedded, first.known) == (NUMBER, 0)
    embedded, removed = change(pairs)
    LAYOUTS[layout](tmp_path / "photos", pairs)
    again = made(model, source, tmp_path / "out", view, file_format)
    new = made(model, source, tmp_path / "new", view, file_format)
    (rows, vectors), (expected_rows, expected) = read(tmp_path / "out"), read(tmp_path / "new")
    assert rows == expected_rows
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert again.manifest == new.manifest
    assert again[1:] == (embedded, len(pairs) - embedded, removed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out", "photos"]


def test_files_that_are_only_touched_are_not_decoded(model, tmp_path, monkeypatch):
    source = as_folder(tmp_path / "photos", some_pairs())
    first = made(model, source, tmp_path / "out", "image", "npy")
    for path in source.iterdir():
        os.utime(path)
    monkeypatch.setattr(oner_jax.Model, "pixels", None)
    for _ in range(2):
        again = made(model, source, tmp_path / "out", "image", "npy")
        assert again == Made(first.manifest, 0, NUMBER, 0)
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr("oner_jax.data.sources.files.read_file", read_texts_only)
    assert made(model, source, tmp_path / "out", "image", "npy").known == NUMBER


def read_texts_only(path: str) -> bytes:
    assert path.endswith(".txt"), "the file is known by its times"
    with open(path, "rb") as file:
        return file.read()


def test_what_changes_between_a_kill_and_its_continuation_is_seen(model, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "BATCHES_PER_PART", 1)
    pairs = {f"{n:02}": (picture(n, *SIDES), f"thing {n}") for n in range(20)}
    source = as_folder(tmp_path / "photos", pairs)
    with monkeypatch.context() as patch:
        patch.setattr(Work, "assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(model, source, tmp_path / "out", "image", "npy")
    pairs["03"] = (picture(99, *SIDES), "thing 3")
    as_folder(source, pairs)
    again = made(model, source, tmp_path / "out", "image", "npy")
    assert (again.embedded, again.known) == (1, 19)
    expected = model.embed(images=[pixels for pixels, _ in pairs.values()])
    np.testing.assert_allclose(read(tmp_path / "out")[1], expected, atol=1e-5)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("killed_at", [0, 1])
def test_a_kill_while_an_earlier_result_is_replaced_loses_nothing(
    killed_at, model, tmp_path, monkeypatch
):
    pairs = some_pairs()
    source = as_folder(tmp_path / "photos", pairs)
    made(model, source, tmp_path / "out", "image", "npy")
    one_more(pairs)
    as_folder(source, pairs)
    renamed: list[Path] = []

    def rename(path: Path, target: Path) -> Path:
        if path.name in ("out", "whole"):
            if len(renamed) == killed_at:
                raise KeyboardInterrupt
            renamed.append(path)
        os.rename(path, target)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            made(model, source, tmp_path / "out", "image", "npy")
    assert made(model, source, tmp_path / "out", "image", "npy").known >= NUMBER
    assert len(read(tmp_path / "out")[0]) == NUMBER + 1


def test_folders_are_replaced_whole(tmp_path):
    for name in ("old", "new", "aside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old", tmp_path / "aside")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [
        Path("old"),
        Path("old/new"),
    ]


@pytest.mark.parametrize("program", [embed, search])
def test_two_at_once_are_refused_by_name(program, run, tmp_path, capsys):
    source = as_folder(tmp_path / "photos", some_pairs())
    out = "--output" if program is embed else "--index"
    flags = [f"--model={run}", f"--source={source}", f"{out}={tmp_path / 'out'}"]
    with held_folder(tmp_path / ".out.partial", "the other"):
        assert run_program(program, *flags) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"another process is writing it (process {os.getpid()} on " in message
    assert run_program(program, *flags) == 0


def test_an_index_made_from_here_is_used_from_elsewhere(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    as_folder(tmp_path / "photos", some_pairs())
    monkeypatch.chdir(tmp_path)
    assert run_program(search, f"--model={run}", "--index=photos.index", "--source=photos") == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    query = ["--index=../photos.index", f"--text={'far too long ' * 20}", "--json"]
    capsys.readouterr()
    assert run_program(search, f"--model={run}", *query) == 0
    out, err = capsys.readouterr()
    hits = [json.loads(line) for line in out.splitlines()]
    assert sorted(Path(hit["image"]) for hit in hits) == sorted(tmp_path.glob("photos/*.bmp"))
    assert "--text has 100 tokens, of which the model reads" in err
    (tmp_path / "photos" / "4.bmp").unlink()
    assert run_program(search, f"--model={run}", "--index=../photos.index", "--text=a cat") == 0
    assert f"1 of these 7 images have gone, {tmp_path / 'photos/4.bmp'}" in capsys.readouterr().err


def test_captions_that_are_cut_off_are_counted(run, tmp_path, capsys):
    pairs = some_pairs()
    pairs["1"] = (pairs["1"][0], "far too long " * 20)
    source = as_folder(tmp_path / "photos", pairs)
    flags = [f"--model={run}", f"--source={source}", f"--output={tmp_path / 'out'}"]
    assert run_program(embed, *flags, "--view=joint") == 0
    assert "; 1 captions were longer than the model reads, and cut off" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["cut_captions"] == 1
