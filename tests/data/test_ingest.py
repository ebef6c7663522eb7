import json
import subprocess
import sys
from pathlib import Path

import pytest

from oner_jax import errors
from oner_jax.data import ingest, records, sources
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.pipeline import DataOptions, training_batches
from oner_jax.data.text import Tokenizer
from tests.data.samples import encoded, picture, run_program, write_jsonl

ROWS = [{"image": f"images/{n}.png", "caption": f"a picture of thing {n}"} for n in range(12)]


def ingest_rows(directory: Path, rows: list, **options) -> dict[str, int]:
    directory.mkdir(exist_ok=True)
    source = write_jsonl(directory, rows)
    return ingest.write_dataset(
        lambda: sources.read_jsonl(source), directory / "out", ingest.IngestOptions(**options)
    )


def stored(directory: Path, name: str) -> list[records.Record]:
    return list(records.open_split(str(directory / "out" / name)).records())


def test_fields_become_records(tmp_path):
    row = {
        "id": 17,
        "image": "deep/er/x.png",
        "caption": "main",
        "captions": ["other", "main", " "],
        "label": "a label",
        "split": "test-1",
        "width": 3,
        "colour": "röt",
        "tags": ["a", 1],
        "nothing": None,
    }
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.png").write_bytes(encoded(picture(0, 30, 40), "PNG"))
    assert ingest_rows(tmp_path, [row]) == {"test-1": 1}
    assert stored(tmp_path, "test-1") == [
        records.Record(
            id="17",
            image=encoded(picture(0, 30, 40), "PNG"),
            height=30,
            width=40,
            captions=("main", "other"),
            label="a label",
            metadata={"colour": "röt", "tags": '["a", 1]'},
        )
    ]


def test_order_and_default_ids_are_those_of_the_lines(tmp_path):
    rows = [ROWS[0], "", *ROWS[1:]]
    assert ingest_rows(tmp_path, rows, validation_fraction=0.0) == {"train": 12}
    found = stored(tmp_path, "train")
    assert [item.captions for item in found] == [(row["caption"],) for row in ROWS]
    assert [item.id for item in found] == [f"{n:08d}" for n in [1, *range(3, 14)]]


def test_equal_captions_stay_on_one_side(tmp_path):
    rows = [
        {
            "image": f"images/{n % 7}.png",
            "caption": f"Thing {n % 200}".upper() if n % 3 else f"thing {n % 200}",
        }
        for n in range(600)
    ]
    counts = ingest_rows(tmp_path, rows, validation_fraction=0.1, images=ImageOptions(8))
    assert sum(counts.values()) == 600
    assert 0.05 < counts["val"] / 600 < 0.15
    held_out = {item.captions[0].lower() for item in stored(tmp_path, "val")}
    assert not held_out & {item.captions[0].lower() for item in stored(tmp_path, "train")}


def test_few_examples_still_have_a_validation_split(tmp_path):
    assert ingest_rows(tmp_path, ROWS, validation_fraction=1e-6) == {"train": 11, "val": 1}
    with pytest.raises(errors.InputError, match="no training examples"):
        ingest_rows(tmp_path / "alike", [ROWS[0], ROWS[0] | {"image": "images/1.png"}])


def test_same_source_gives_same_bytes(tmp_path):
    for name in ("first", "second"):
        ingest_rows(tmp_path / name, ROWS, images=ImageOptions(16), shard_bytes=2000)
    first, second = (
        {f.name: f.read_bytes() for f in (tmp_path / name / "out" / "train").iterdir()}
        for name in ("first", "second")
    )
    assert first == second
    assert len(first) > 2


def test_program_makes_what_training_reads(tmp_path, capsys):
    source, output = write_jsonl(tmp_path, ROWS), tmp_path / "out"
    arguments = [f"--source={source}", f"--output={output}", "--vocabulary_size=284"]
    assert run_program(ingest, *arguments, "--maximum_side=20", "--validation_fraction=0") == 0
    assert f"{output}/train: 12 examples" in capsys.readouterr().out
    tokenizer = str(output / "tokenizer.model")
    assert Tokenizer.load(tokenizer).vocabulary_size == 284
    options = DataOptions(str(output / "train"), tokenizer, image_size=16, text_tokens=8)
    batch = next(training_batches(options, global_batch_size=4, seed=0, first_step=0))
    assert batch["image"].shape == (4, 16, 16, 3)
    manifest = json.loads((output / "train" / "manifest.json").read_text())
    assert manifest["image_options"]["maximum_side"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "pairs.jsonl"]


GOOD = json.dumps(ROWS[0])
BAD_LINES = {
    "no json": ("{image: x}", "no JSON"),
    "no object": ("[1, 2]", "no JSON object"),
    "no image field": ('{"caption": "x"}', "lacks an image"),
    "no caption": ('{"image": "images/0.png"}', "lacks a caption"),
    "blank caption": ('{"image": "images/0.png", "caption": "  "}', "lacks a caption"),
    "caption of numbers": ('{"image": "images/0.png", "captions": [1]}', "captions is no string"),
    "missing image": ('{"image": "images/none.png", "caption": "x"}', "images/none.png does not"),
    "undecodable image": ('{"image": "broken.png", "caption": "x"}', "cannot be decoded"),
    "cut image": ('{"image": "cut.jpg", "caption": "x"}', "cannot be decoded"),
    "same id": ('{"image": "images/0.png", "caption": "x", "id": "00000001"}', "occurs twice"),
    "wild split": ('{"image": "images/0.png", "caption": "x", "split": "../up"}', "'../up'"),
    "wrong label": (
        '{"image": "images/0.png", "caption": "x", "label": [1]}',
        "label is no string",
    ),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_lines_are_named_and_leave_nothing(tmp_path, capsys, kind):
    line, reason = BAD_LINES[kind]
    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "cut.jpg").write_bytes(encoded(picture(0, 60, 60), "JPEG")[:700])
    source = write_jsonl(tmp_path, [ROWS[0], line, *ROWS[1:]])
    before = sorted(tmp_path.iterdir())
    assert run_program(ingest, f"--source={source}", f"--output={tmp_path}/out") == 2
    (message,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
    assert f"{source}:2: " in message
    assert reason in message
    assert sorted(tmp_path.iterdir()) == before


def test_bad_sources_and_outputs_are_named(tmp_path, monkeypatch, capsys):
    good = write_jsonl(tmp_path, ROWS)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(f"{GOOD}\n".encode() + b'{"caption": "caf\xe9"}\n')
    (tmp_path / "there").mkdir()
    cases = [
        (["--output=out"], "--source is missing"),
        ([f"--source={good}"], "--output is missing"),
        (["--source=none.jsonl", "--output=out"], "none.jsonl: cannot be read"),
        (["--source=.", "--output=out"], "cannot be read"),
        (["--source=empty.jsonl", "--output=out"], "no examples"),
        (["--source=latin.jsonl", "--output=out"], "latin.jsonl:2: no UTF-8"),
        ([f"--source={good}", "--output=there"], "exists already"),
        ([f"--source={good}", "--output=no/where"], "no is no local directory"),
        ([f"--source={good}", "--output=gs://bucket/data"], "is no local directory"),
        ([f"--source={good}", "--output=out", "--vocabulary_size=9999"], "give at most"),
    ]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for arguments, reason in cases:
        assert run_program(ingest, *arguments) == 2
        (message,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
        assert reason in message
        assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_ingest_leaves_nothing(tmp_path):
    source = write_jsonl(tmp_path, ROWS)
    calls: list[int] = []

    def read():
        calls.append(len(calls))
        for number, example in enumerate(sources.read_jsonl(source)):
            if len(calls) == 2 and number == 9:
                raise KeyboardInterrupt
            yield example

    with pytest.raises(KeyboardInterrupt):
        ingest.write_dataset(read, tmp_path / "out", ingest.IngestOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "pairs.jsonl"]


def test_started_as_a_program(tmp_path):
    source = write_jsonl(tmp_path, ["no json"])
    command = [sys.executable, "-m", "oner_jax.data.ingest", f"--source={source}", "--output=out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {source}:1: no JSON")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
