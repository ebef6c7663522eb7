"""Embedding a collection: whole, resumable, the same bytes, nothing lost unseen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import oner_jax
from oner_jax import embed
from oner_jax.errors import InputError
from oner_jax.indexing import making
from oner_jax.indexing.work import Work
from tests.data.samples import encoded, picture, run_program, write_jsonl
from tests.runs import write_run

ROOT = Path(__file__).parents[2]
NUMBER = 21


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("embed") / "run", steps=(10,))


@pytest.fixture(scope="module")
def model(run) -> oner_jax.Model:
    return oner_jax.load(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures in folders, some with a text; one is damaged, one is a text file called .jpg."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "trip").mkdir()
    for number in range(NUMBER):
        place = folder / "trip" if number % 3 == 0 else folder
        (place / f"{number:02}.png").write_bytes(encoded(picture(number, 20 + number, 30), "PNG"))
        if number % 2 == 0:
            (place / f"{number:02}.txt").write_text(f"thing number {number}")
    (folder / "broken.jpg").write_bytes(encoded(picture(1, 90, 90), "JPEG")[:700])
    (folder / "text.jpg").write_text("no picture")
    return folder


def arguments(run: Path, photos: Path, out: Path, *more: str) -> list[str]:
    return [f"--model={run}", f"--source={photos}", f"--output={out}", "--batch_size=4", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "BATCHES_PER_PART", 1)
        assert run_program(embed, *arguments(run, photos, out)) == 0
    return out


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_rows_are_the_pictures_in_order(whole, model, photos):
    vectors, rows = np.load(whole / "embeddings.npy"), read_rows(whole)
    assert vectors.shape == (NUMBER, model.features)
    assert vectors.dtype == np.float32
    assert {Path(row["image"]).name for row in rows} == {f"{n:02}.png" for n in range(NUMBER)}
    assert rows[-1]["caption"] == "thing number 18", "folders come after the files beside them"
    expected = model.embed(images=[row["image"] for row in rows])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not list(whole.parent.glob(".*")), "nothing unfinished is left"


def test_what_cannot_be_embedded_is_counted_and_listed(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["rows"] == NUMBER
    assert manifest["dropped"] == {"undecodable_image": 2}
    dropped = [json.loads(line) for line in (whole / "dropped.jsonl").read_text().splitlines()]
    assert {Path(entry["location"]).name for entry in dropped} == {"broken", "text"}
    assert all(entry["detail"] for entry in dropped)


def test_killed_and_continued_gives_the_same_bytes(run, photos, whole, tmp_path, monkeypatch):
    """Killed for good in the middle of its parts, and asked to stop while joining them."""
    out = tmp_path / "whole"
    program = (
        "import sys\n"
        "from oner_jax import embed\n"
        "from oner_jax.command_line import program as program_ends\n"
        "from oner_jax.indexing import making\n"
        "making.BATCHES_PER_PART = 1\n"
        "embed.define_flags()\n"
        "program_ends.run_program(embed.main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments(run, photos, out)], cwd=ROOT, env=os.environ
    )
    partial = tmp_path / ".whole.partial"
    deadline = time.monotonic() + 300
    while not list(partial.glob("part-*.npz")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(partial.glob("part-*.npz")), "a part was finished"
    assert not out.exists(), "nothing half-written"
    monkeypatch.setattr(making, "BATCHES_PER_PART", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Work, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_program(embed, *arguments(run, photos, out))
    assert not out.exists()
    assert run_program(embed, *arguments(run, photos, out)) == 0
    assert contents(out) == contents(whole)
    assert not partial.exists()


def interrupt(*_):
    raise KeyboardInterrupt


def test_captions_and_pairs_have_rows_too(run, model, tmp_path):
    pairs = write_jsonl(
        tmp_path,
        [
            {"id": "a", "image": "a.png", "captions": ["one", "two"]},
            {"id": "b", "image": "b.png", "caption": "three"},
            {"id": "c", "image": "c.png"},
            {"id": "d", "caption": "a text alone"},
        ],
    )
    common = [f"--model={run}", f"--source={pairs}"]
    assert run_program(embed, *common, "--view=text", f"--output={tmp_path / 'texts'}") == 0
    texts = [row["caption"] for row in read_rows(tmp_path / "texts")]
    assert texts == ["one", "two", "three", "a text alone"]
    np.testing.assert_allclose(
        np.load(tmp_path / "texts" / "embeddings.npy"), model.embed(texts=texts), atol=1e-5
    )
    flags = ["--view=joint", "--format=parquet", f"--output={tmp_path / 'pairs'}"]
    assert run_program(embed, *common, *flags) == 0
    table = pyarrow.parquet.read_table(tmp_path / "pairs" / "embeddings.parquet")
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["caption"].to_pylist() == ["one", "three"]
    found = np.array(table["embedding"].to_pylist(), np.float32)
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    expected = model.embed(images=images, texts=["one", "three"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert manifest["dropped"] == {"missing_caption": 1, "missing_image": 1}


def test_the_same_command_again_does_nothing(run, photos, whole, monkeypatch, capsys):
    monkeypatch.setattr(making, "BATCHES_PER_PART", 1)
    monkeypatch.setattr(oner_jax.Model, "embed_arrays", interrupt)
    before = contents(whole)
    assert run_program(embed, *arguments(run, photos, whole)) == 0
    assert contents(whole) == before
    said = f"{NUMBER} rows of 32 features; 0 new or changed, {NUMBER} as they were, 0 removed"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--model=/nowhere"], "/nowhere holds no run"),
        (["--source=/nowhere"], "/nowhere"),
        (["--source=EMPTY"], "holds no image"),
        (["--source=BROKEN"], "nothing to embed: all 1 entries were left out"),
        (["--view=both"], "view"),
        (["--output=WHOLE", "--view=joint"], "exists and was made by another command"),
        (["--output=FILE/out"], "cannot be made: Not a directory"),
    ],
)
def test_bad_input_is_one_line(more, complaint, run, photos, whole, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.jpg").write_text("no picture")
    (tmp_path / "file").write_text("")
    places = {"EMPTY": "empty", "BROKEN": "broken", "FILE": "file"}
    for name, path in places.items():
        more = [argument.replace(name, str(tmp_path / path)) for argument in more]
    more = [argument.replace("WHOLE", str(whole)) for argument in more]
    assert run_program(embed, *arguments(run, photos, tmp_path / "out", *more)) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if "embedded:" not in line]
    assert len(message) == 1
    assert complaint in message[0]
    assert not (tmp_path / "out").exists()


def test_a_view_that_the_model_lacks_is_refused(tmp_path, photos):
    towers = write_run(
        tmp_path / "run", argument="tiny,architecture=two_towers,terms=itc", steps=(5,)
    )
    with pytest.raises(InputError, match="two_towers has no joint view"):
        making.make_embeddings(
            oner_jax.load(towers), [], "joint", tmp_path / "out", file_format="npy", source=""
        )
