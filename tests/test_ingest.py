import dataclasses
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import oner_jax
from oner_jax import ingest
from oner_jax.command_line import program as program_ends
from oner_jax.data import records, sources
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion.options import ConversionOptions, IngestOptions, SourceName
from oner_jax.data.ingestion.processes import ProcessRunner
from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import training_batches
from oner_jax.data.sources import Reason
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from tests.data.ingestion.fakes import example, files, in_parts, make
from tests.data.samples import encoded, picture, run_program, write_jsonl
from tests.data.sources import written
from tests.data.sources.test_formats import WRITERS
from tests.data.sources.test_tar_members import archive
from tests.data.test_image_files import png_claiming

ROWS = [{"image": f"images/{n}.png", "caption": f"a picture of thing {n}"} for n in range(12)]


def ingest_rows(directory: Path, rows: list, maximum_side: int = 256, **options) -> dict[str, int]:
    """Writes directory/out; returns the number of examples of every split."""
    directory.mkdir(exist_ok=True)
    source = str(write_jsonl(directory, rows))
    chosen = IngestOptions(ConversionOptions(ImageOptions(maximum_side)), **options)
    parts = sources.open_source(source, examples_per_part=7)
    name = SourceName("pairs.jsonl", "jsonl")
    ingest.write_dataset(parts, name, str(directory / "out"), chosen, ProcessRunner(1))
    return {name: facts["examples"] for name, facts in manifests(directory / "out").items()}


def manifests(output: Path) -> dict[str, dict]:
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(output.glob("*/manifest.json"))
    }


def dropped(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]


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
            "image": f"images/{n}.png",
            "caption": f"Thing {n % 200}".upper() if n % 3 else f"thing {n % 200}",
        }
        for n in range(600)
    ]
    counts = ingest_rows(tmp_path, rows, maximum_side=8, validation_fraction=0.1)
    assert sum(counts.values()) == 600
    assert 0.05 < counts["val"] / 600 < 0.15
    held_out = {item.captions[0].lower() for item in stored(tmp_path, "val")}
    assert not held_out & {item.captions[0].lower() for item in stored(tmp_path, "train")}


def test_few_examples_still_have_a_validation_split(tmp_path):
    assert ingest_rows(tmp_path, ROWS, validation_fraction=1e-6) == {"train": 11, "val": 1}
    with pytest.raises(InputError, match="no training examples"):
        ingest_rows(tmp_path / "alike", [ROWS[0], ROWS[0] | {"image": "images/1.png"}])


def test_same_source_gives_same_bytes_however_it_is_cut(tmp_path):
    entries = [example(n) for n in range(12)]
    options = IngestOptions(shard_bytes=2000)
    for size in (1, 5, 100):
        make(in_parts(entries, size), tmp_path / str(size), options)
    first, second, third = (files(tmp_path / str(size) / "train") for size in (1, 5, 100))
    assert len(first) > 2
    for others in (second, third):
        assert {**first, "manifest.json": b""} == {**others, "manifest.json": b""}


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "pairs.jsonl"]
    assert sorted(path.name for path in output.iterdir()) == ["tokenizer.model", "train"]


def test_the_manifest_says_what_is_there_and_of_what_it_was_made(tmp_path):
    texts = {"captions": ["one", "two"], "license": "CC0"}
    rows = [row | (texts if n < 5 else {}) for n, row in enumerate(ROWS)]
    rows[3] |= {"image": "none.png"}
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        source = write_jsonl(folder, rows)
        (folder / "none.png").unlink()
        flags = [f"--source={source}", f"--output={folder}/out", "--validation_fraction=0"]
        assert run_program(ingest, *flags, "--maximum_side=20", "--minimum_side=8") == 0
    assert files(tmp_path / "out" / "train") == files(tmp_path / "elsewhere" / "out" / "train")
    manifest = manifests(tmp_path / "out")["train"]
    items = stored(tmp_path, "train")
    expected = {
        "examples": 11,
        "pairs": 11,
        "images_only": 0,
        "texts_only": 0,
        "captions": 4 * 3 + 7,
        "image_bytes": sum(len(item.image) for item in items),
        "record_bytes": sum(len(item.serialise()) for item in items),
        "licences": {"": 7, "CC0": 4},
        "dropped": {},
        "oner_jax_version": oner_jax.__version__,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["image_options"]["maximum_side"] == 20
    assert manifest["filters"]["minimum_side"] == 8
    fingerprint = manifest["source"].pop("fingerprint")
    assert manifest["source"] == {
        "name": "pairs.jsonl",
        "format": "jsonl",
        "entries": 12,
        "dropped": {"missing_image": 1},
        "dropped_captions": {},
        "joined": 0,
        "renamed": 0,
    }
    rows[0] = rows[0] | {"caption": "another"}
    write_jsonl(tmp_path, rows)
    (tmp_path / "none.png").unlink()
    flags = [f"--source={tmp_path}/pairs.jsonl", f"--output={tmp_path}/changed"]
    assert run_program(ingest, *flags, "--validation_fraction=0", "--maximum_side=20") == 0
    changed = manifests(tmp_path / "changed")["train"]["source"]["fingerprint"]
    assert changed != fingerprint


def damaged_source(folder: Path) -> tuple[Path, Counter[str]]:
    """A JSONL of 12 sound lines and one of each kind of damage, and how often each is in it."""
    (folder / "images").mkdir()
    jpeg = encoded(picture(0, 60, 60), "JPEG")
    one_bit = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(one_bit, "PNG")
    contents = {
        "html.jpg": b"<html>not found</html>",
        "cut.jpg": jpeg[:700],
        "empty.jpg": b"",
        "bomb.png": one_bit.getvalue(),
        "bomb.jpg": jpeg.replace(bytes([0, 60, 0, 60]), bytes([0x75, 0x30, 0x75, 0x30]), 1),
        "claim.png": png_claiming(30_000, 30_000),
    }
    assert len(contents["bomb.png"]) < 2e5
    for name, content in contents.items():
        (folder / "images" / name).write_bytes(content)
    good = ROWS[0]
    bad: list[tuple[Reason, dict | str]] = [
        (Reason.UNDECODABLE_IMAGE, {"image": "images/html.jpg", "caption": "x"}),
        (Reason.UNDECODABLE_IMAGE, {"image": "images/cut.jpg", "caption": "x"}),
        (Reason.EMPTY_IMAGE, {"image": "images/empty.jpg", "caption": "x"}),
        *(
            (Reason.TOO_MANY_PIXELS, {"image": f"images/{name}", "caption": "x"})
            for name in ("bomb.png", "bomb.jpg", "claim.png")
        ),
        (Reason.MISSING_IMAGE, '{"image": "images/none.png", "caption": "x"}'),
        (Reason.BROKEN_ENTRY, "{image: x}"),
        (Reason.BROKEN_ENTRY, json.dumps(good | {"label": {"of": 1}})),
        (Reason.DUPLICATE_PAIR, good | {"id": "00000001"}),
        (Reason.BAD_SPLIT, good | {"split": "../up"}),
        (Reason.MISSING_CAPTION, {"image": good["image"]}),
        (Reason.CAPTION_TOO_LONG, good | {"caption": "x" * 100_000}),
        (Reason.INVALID_TEXT, json.dumps(good | {"caption": "\ud800"})),
        (Reason.INVALID_TEXT, json.dumps(good | {"caption": "LATIN"})),
    ]
    lines: list[dict | str] = [ROWS[0]]
    for row, (_, line) in zip(ROWS[1:], bad[: len(ROWS) - 1], strict=True):
        lines += [line, row]
    lines += [line for _, line in bad[len(ROWS) - 1 :]]
    path = write_jsonl(folder, lines)
    path.write_bytes(path.read_bytes().replace(b"LATIN", b"caf\xe9"))
    return path, Counter(reason for reason, _ in bad)


def test_damage_is_counted_by_reason_and_costs_nothing_else(tmp_path, capsys):
    source, expected = damaged_source(tmp_path)
    flags = [f"--source={source}", f"--output={tmp_path}/out", "--validation_fraction=0"]
    assert run_program(ingest, *flags, "--processes=1") == 0
    printed = capsys.readouterr().out
    assert [item.captions[0] for item in stored(tmp_path, "train")] == [
        row["caption"] for row in ROWS
    ]
    account = manifests(tmp_path / "out")["train"]["source"]
    assert account["dropped"] == dict(sorted(expected.items()))
    assert account["entries"] == len(ROWS) + expected.total()
    listed = [loss for loss in dropped(tmp_path / "out") if loss["what"] == "example"]
    assert Counter(loss["reason"] for loss in listed) == expected
    places = [int(loss["location"].rpartition(":")[2]) for loss in listed]
    assert places == sorted(set(places))
    assert f"dropped {expected.total()} of {account['entries']} entries" in printed
    for reason, count in expected.items():
        assert f"  {count} {reason}, as {source}:" in printed


def damaged_shards(folder: Path) -> Counter[str]:
    """A folder of tar archives with 15 sound pairs, and how often each kind of damage is in it."""

    def pair(key: str, image: bytes, caption: bytes) -> list[tuple[str, bytes]]:
        return [(f"{key}.jpg", image), (f"{key}.txt", caption)]

    def sound(*numbers: int) -> list[tuple[str, bytes]]:
        pairs = [pair(f"{n:04d}", jpeg(n), f"thing {n}".encode()) for n in numbers]
        return [member for members in pairs for member in members]

    def jpeg(number: int) -> bytes:
        return encoded(picture(number, 60, 80), "JPEG")

    image = jpeg(50)
    damaged = {
        Reason.UNDECODABLE_IMAGE: pair("cut", image[: len(image) // 2], b"cut in the middle"),
        Reason.EMPTY_IMAGE: pair("zero", b"", b"no bytes"),
        Reason.DUPLICATE_PAIR: pair("0001", jpeg(1), b"thing 1"),
        Reason.INVALID_TEXT: pair("latin", image, b"caf\xe9"),
        Reason.CAPTION_TOO_LONG: pair("long", image, b"x" * 100_000),
        Reason.TOO_MANY_PIXELS: pair("bomb", png_claiming(30_000, 30_000), b"large"),
    }
    members = [member for pair in damaged.values() for member in pair]
    whole = archive(sound(10, 11, 12, 13))
    second_image = whole.index(jpeg(11)[-100:])
    files = {
        "00000.tar": archive(sound(0, 1, 2) + members + sound(3, 4)),
        "00001.tar": whole[:second_image],
        "00002.tar": archive([]),
        "00003.tar": b"",
        "00004.tar": archive(sound(*range(20, 29))),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    archives = {Reason.TRUNCATED_ARCHIVE: 1, Reason.EMPTY_ARCHIVE: 2}
    return Counter(dict.fromkeys(damaged, 1) | archives)


def test_damaged_archives_cost_what_is_damaged_alone(tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    expected = damaged_shards(tmp_path / "shards")
    flags = [f"--source={tmp_path}/shards", f"--output={tmp_path}/out", "--validation_fraction=0"]
    assert run_program(ingest, *flags, "--processes=1") == 0
    printed = capsys.readouterr().out
    numbers = [*range(5), 10, *range(20, 29)]
    assert [item.captions[0] for item in stored(tmp_path, "train")] == [
        f"thing {n}" for n in numbers
    ]
    account = manifests(tmp_path / "out")["train"]["source"]
    assert account["dropped"] == dict(sorted(expected.items()))
    assert account["entries"] == len(numbers) + expected.total()
    listed = [loss for loss in dropped(tmp_path / "out") if loss["what"] == "example"]
    assert Counter(loss["reason"] for loss in listed) == expected
    assert f"dropped {expected.total()} of {account['entries']} entries" in printed


def test_images_are_deduplicated_on_request_and_captions_are_counted(tmp_path):
    png = encoded(picture(0), "PNG")
    rows = [row | {"captions": ["", "y" * 20_000]} if n == 4 else row for n, row in enumerate(ROWS)]
    source = write_jsonl(tmp_path, rows)
    for n in (3, 7, 8):
        (tmp_path / "images" / f"{n}.png").write_bytes(png)
    flags = [f"--source={source}", "--validation_fraction=0"]
    assert run_program(ingest, *flags, f"--output={tmp_path}/all") == 0
    assert manifests(tmp_path / "all")["train"]["examples"] == 12
    assert run_program(ingest, *flags, f"--output={tmp_path}/out", "--drop_duplicate_images") == 0
    manifest = manifests(tmp_path / "out")["train"]
    assert manifest["examples"] == 9
    assert manifest["dropped"] == {"duplicate_image": 3}
    assert manifest["source"]["dropped_captions"] == {"caption_too_long": 1}
    assert [
        (loss["what"], loss["location"].rpartition(":")[2]) for loss in dropped(tmp_path / "out")
    ] == [("example", "4"), ("caption", "5"), ("example", "8"), ("example", "9")]
    details = [loss["detail"] for loss in dropped(tmp_path / "out")]
    assert details[0] == f"like {source}:1"


def test_unpaired_records_have_splits_of_their_own(tmp_path):
    entries = [example(n) for n in range(6)]
    entries += [example(n, captions=()) for n in range(6, 9)]
    entries += [example(9, read_image=None), example(10, read_image=None, split="extra")]
    keep = IngestOptions(ConversionOptions(unpaired="keep"), validation_fraction=0.0)
    make(in_parts(entries, 4), tmp_path / "out", keep)
    found = manifests(tmp_path / "out")
    kinds = ("pairs", "images_only", "texts_only")
    assert {name: tuple(facts[kind] for kind in kinds) for name, facts in found.items()} == {
        "train": (6, 0, 0),
        "train_images_only": (0, 3, 0),
        "train_texts_only": (0, 0, 1),
        "extra_texts_only": (0, 0, 1),
    }
    (text,) = stored(tmp_path, "extra_texts_only")
    assert (text.image, text.height, text.captions) == (b"", 0, ("thing 10",))
    make(in_parts(entries, 4), tmp_path / "dropped", IngestOptions(validation_fraction=0.0))
    assert manifests(tmp_path / "dropped")["train"]["source"]["dropped"] == {
        "missing_caption": 3,
        "missing_image": 2,
    }


def test_bad_sources_and_outputs_are_named(tmp_path, monkeypatch, capsys):
    good = write_jsonl(tmp_path, ROWS)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('no json\n{"image": "none.png", "caption": "x"}\n')
    (tmp_path / "there").mkdir()
    cases = [
        (["--output=out"], "--source is missing"),
        ([f"--source={good}"], "--output is missing"),
        (["--source=none.jsonl", "--output=out"], "none.jsonl: cannot be read (No such file"),
        (["--source=empty.jsonl", "--output=out"], "no examples"),
        (
            ["--source=bad.jsonl", "--output=out"],
            "no examples to keep: 1 broken_entry, 1 missing_image, the first at bad.jsonl:1",
        ),
        ([f"--source={good}", "--output=there"], "exists already"),
        ([f"--source={good}", "--output=no/where"], "no is no directory"),
        ([f"--source={good}", "--output=out", "--maximum_aspect=0.5"], "give at least 1"),
        (
            [f"--source={good}", "--output=out", "--minimum_caption_characters=20000"],
            "more than --maximum_caption_characters=10000",
        ),
    ]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for arguments, reason in cases:
        assert run_program(ingest, *arguments) == 2
        (message,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
        assert reason in message
        assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_ingest_continues(tmp_path, monkeypatch, capsys):
    source = write_jsonl(tmp_path, ROWS)
    arguments = [f"--source={source}", f"--output={tmp_path}/out"]
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(ingest, "write_shards", interrupt)
        assert run_program(ingest, *arguments) == program_ends.EXIT_PREEMPTED
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run_program(ingest, *arguments) == 0


def test_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    source = write_jsonl(tmp_path, ROWS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ingest, "write_shards", full)
    assert run_program(ingest, f"--source={source}", f"--output={tmp_path}/out") == 2
    assert "No space left on device; make room" in capsys.readouterr().err


MEASURED = """
import functools, resource, sys
from oner_jax.data.ingestion.conversion import convert
from oner_jax.data.ingestion.options import ConversionOptions
from oner_jax.data.sources import RawExample

def reason(file):
    example = RawExample("here", "id", functools.partial(bytes, file), ("a caption",))
    return convert(example, ConversionOptions()).result.reason

reason(b"warm up")
files = [open(name, "rb").read() for name in sys.argv[1:]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(*(reason(file) for file in files))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_take_no_memory(tmp_path):
    damaged_source(tmp_path)
    webp = encoded(picture(0), "WEBP", lossless=True)
    width = int.from_bytes(webp[21:25], "little") | (1 << 28) - 1  # 16,384 x 16,384
    (tmp_path / "images" / "bomb.webp").write_bytes(
        webp[:21] + width.to_bytes(4, "little") + webp[25:]
    )
    gif = encoded(picture(0), "GIF")
    (tmp_path / "images" / "bomb.gif").write_bytes(gif[:6] + b"\xff\xff\xff\xff" + gif[10:])
    names = [tmp_path / "images" / f"bomb.{kind}" for kind in ("png", "jpg", "webp", "gif")]
    command = [sys.executable, "-c", MEASURED, *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reasons, kibibytes = done.stdout.splitlines()
    assert reasons.split() == ["too_many_pixels"] * 4
    assert int(kibibytes) < 32 * 1024  # the pixels would take from 1 to 12 GiB


def test_started_as_a_program(tmp_path):
    source = write_jsonl(tmp_path, ["no json"])
    command = [sys.executable, "-m", "oner_jax.ingest", f"--source={source}", "--output=out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (message,) = [s for s in done.stderr.splitlines() if not s.startswith("convert: ")]
    assert message.startswith("error: the source holds no examples to keep: 1 broken_entry")
    assert "Traceback" not in done.stdout + done.stderr


def test_every_format_gives_the_same_records(tmp_path):
    made = {}
    for kind, write in WRITERS.items():
        source = write(tmp_path / kind / "data", written.examples())
        output = tmp_path / kind / "out"
        parts = sources.open_source(str(source), examples_per_part=7)
        name = SourceName(kind, kind)
        ingest.write_dataset(parts, name, str(output), IngestOptions(), ProcessRunner(1))
        made[kind] = {
            name: [dataclasses.replace(item, metadata={}) for item in stored(output.parent, name)]
            for name in manifests(output)
        }
        assert not (output / "dropped.jsonl").exists()
    assert {name: len(items) for name, items in made["jsonl"].items()} == {"test": 6, "train": 24}
    for kind, splits in made.items():
        assert splits == made["jsonl"], kind


def test_class_folders_take_names_and_splits_from_the_command_line(tmp_path, capsys):
    for split in ("train", "val"):
        for number, name in enumerate(("n00000001", "n00000002")):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            (folder / "x.png").write_bytes(encoded(picture(number), "PNG"))
    (tmp_path / "names.txt").write_text("n00000001 tench, Tinca tinca\nn00000002 goldfish\n")
    source, output = f"--source={tmp_path}/imagenet", tmp_path / "out"
    assert run_program(ingest, source, f"--output={output}") == 2
    assert "give --class_names=FILE" in capsys.readouterr().err
    options = [f"--class_names={tmp_path}/names.txt", "--splits=val"]
    assert run_program(ingest, source, f"--output={output}", *options) == 0
    assert list(manifests(output)) == ["val"]
    assert [item.captions for item in stored(tmp_path, "val")] == [
        ("tench", "Tinca tinca"),
        ("goldfish",),
    ]
    assert [item.label for item in stored(tmp_path, "val")] == ["tench", "goldfish"]
    images = [f"--image_directory={tmp_path}", f"--output={tmp_path}/other"]
    assert run_program(ingest, source, *options, *images) == 2
    assert "--image_directory: is for karpathy, coco" in capsys.readouterr().err
