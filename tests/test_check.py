"""The check of a recipe's data, as a user runs it, and what it says against what is there."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from matplotlib.patches import Rectangle
from PIL import Image

from configs.oner import get_config
from oner_jax import check
from oner_jax.configuration import resolve_without_data
from oner_jax.data import pipeline, records
from oner_jax.data.checking import delivery_rate, drawings
from oner_jax.data.checking.inventory import Inventory
from oner_jax.data.checking.sample import Sample, length_line
from oner_jax.data.reading.kinds import IMAGE_ONLY, PAIRS, TEXT_ONLY
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.planning.topology import Topology
from tests.data.samples import record, run_program, write_split

TINY = "--config=configs/oner.py:tiny"
QUICK = ("--sample=40", "--seconds=0.1")


def test_embedded_data_are_there_and_fast_enough(tmp_path: Path, capsys):
    output = tmp_path / "new" / "pictures"
    code = run_program(check, TINY, *QUICK, "--needed_pairs_per_second=0.01", f"--output={output}")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    for key, name in (
        ("data.train", "train"),
        ("data.evaluation.val", "val"),
        ("data.evaluation.new_vendor", "new_vendor"),
    ):
        manifest = json.loads((records.EMBEDDED_ROOT / name / "manifest.json").read_text())
        files = (records.EMBEDDED_ROOT / name).glob("*.array_record")
        stored = sum(file.stat().st_size for file in files)
        (line,) = [line for line in shown.out.splitlines() if line.startswith(f"{key} ")]
        assert f"{manifest['examples']:,} records, {manifest['captions']:,} captions" in line
        assert f"{stored / 1e6:,.1f} MB, hash {manifest['content_hash'][:12]}" in line
        assert f"embedded:{name}: all of 40 sampled records decode" in shown.out
    assert "licences: public domain 3,840, CC-BY-3.0 3,762," in shown.out
    assert "data.tokenizer              embedded: 4,096 ids" in shown.out
    assert "needs 0 pairs/s per host (as given), delivers " in shown.out
    written = {path.name for path in output.iterdir()}
    samples = {f"sample_{name}.png" for name in ("train", "val", "new_vendor")}
    assert written == samples | {"token_lengths.png"}
    for path in output.iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.min() < 50 < 200 < pixels.max()


def test_all_that_is_missing_is_listed(tmp_path: Path, capsys):
    good = write_split(tmp_path / "good", [record(number) for number in range(3)])
    broken = write_split(tmp_path / "broken", [record(number) for number in range(3)])
    next(Path(broken).glob("*.array_record")).unlink()
    code = run_program(
        check,
        TINY,
        f"--config.data.train={tmp_path}/nowhere",
        f"--config.data.evaluation.val={broken}",
        f"--config.data.evaluation.new_vendor={good}",
        "--config.data.tokenizer=none.model",
    )
    shown = capsys.readouterr()
    assert code == 2
    lines = shown.out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"data.evaluation.new_vendor  {good}: 3 records")
    assert "MISSING" not in lines[0]
    missing = {"data.train": "no such directory", "data.evaluation.val": "is missing; copy"}
    missing["data.tokenizer"] = "none.model: cannot be read"
    for line, (key, problem) in zip(lines[1:], missing.items(), strict=True):
        assert line.startswith(f"{key} ")
        assert "MISSING: " in line
        assert problem in line
    assert shown.err == (
        "error: 3 of the 4 things that the recipe names cannot be used (data.train, "
        "data.evaluation.val, data.tokenizer): put them where it looks, or change its config.data\n"
    )


def test_damaged_records_are_named(tmp_path: Path, capsys):
    items = [record(number) for number in range(12)]
    items[3] = record(3, image=items[3].image[:60])
    items[7] = record(7, height=500)
    name = write_split(tmp_path / "split", items)
    sample = Sample.take(records.open_split(name), 1000, PAIRS)
    assert [item.id for item in sample.records] == [
        item.id for number, item in enumerate(items) if number not in (3, 7)
    ]
    assert [fault.split(":")[0] for fault in sample.faults] == [
        "record example-3",
        "record example-7",
    ]
    code = run_program(check, TINY, *QUICK, f"--config.data.evaluation.val={name}")
    shown = capsys.readouterr()
    assert code == 2
    assert "2 of 12 sampled records cannot be used" in shown.out
    assert "  record example-3: " in shown.out
    assert f"error: damaged records in {name}: ingest the data again" in shown.err


def test_a_record_needs_what_is_read_of_it(tmp_path: Path):
    pictures = [dataclasses.replace(record(number), captions=()) for number in range(4)]
    texts = [record(number, image=b"", height=0, width=0) for number in range(4)]
    broken = [record(4, image=b"none"), record(5, image=b"none")]
    split = records.open_split(write_split(tmp_path / "split", [*pictures, *texts, *broken]))
    paired, image_only, text_only, evaluated = (
        Sample.take(split, 100, kind) for kind in (PAIRS, IMAGE_ONLY, TEXT_ONLY, None)
    )
    assert paired.records == []
    assert [fault.partition(": ")[2] for fault in paired.faults[:8]] == [
        *["it has no caption"] * 4,
        *["it has no picture"] * 4,
    ]
    assert image_only.records == evaluated.records == pictures
    assert text_only.records == texts + broken
    captions = [caption for item in texts + broken for caption in item.captions]
    assert text_only.captions == captions


def test_pictures_and_captions_alone_are_checked_as_such(tmp_path: Path, capsys):
    texts = [record(number, image=b"", height=0, width=0) for number in range(30)]
    names = {
        "train": "embedded:train,embedded:val",
        "image_only": write_split(tmp_path / "pictures", [record(n) for n in range(30)]),
        "text_only": write_split(tmp_path / "texts", texts),
    }
    flags = [f"--config.data.{key}={name}" for key, name in names.items()]
    flags += ["--config.data.image_only_batch_size=4", "--config.data.text_only_batch_size=4"]
    code = run_program(check, TINY, *QUICK, *flags, f"--output={tmp_path}/look")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert f"{names['image_only']}: all of 30 sampled records decode" in shown.out
    assert f"{names['text_only']}: all of 30 sampled records can be read" in shown.out
    assert f"{names['text_only']}: captions have" in shown.out
    assert f"{names['image_only']}: captions have" not in shown.out
    written = {path.name for path in (tmp_path / "look").iterdir()}
    of_training = {f"sample_{key}.png" for key in ("train_1", "train_2", "image_only", "text_only")}
    assert of_training < written


def test_datasets_whose_keys_end_alike_are_all_checked(tmp_path: Path, capsys):
    trained, evaluated = (
        write_split(tmp_path / name, [record(number) for number in range(40)]) for name in "ab"
    )
    flags = [f"--config.data.train={trained}", f"--output={tmp_path}/look"]
    flags.append(f"--config.data.evaluation={{'train': '{evaluated}'}}")
    code = run_program(check, TINY, *QUICK, *flags)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    for name in (trained, evaluated):
        assert f"{name}: all of 40 sampled records decode" in shown.out
    written = {path.name for path in (tmp_path / "look").iterdir()}
    samples = {"sample_train.png", "sample_evaluation.train.png"}
    assert written == samples | {"token_lengths.png"}


def test_many_faults_are_cut_short(tmp_path: Path):
    items = [record(number, image=b"none") for number in range(30)]
    sample = Sample.take(records.open_split(write_split(tmp_path / "split", items)), 25, None)
    lines = sample.fault_lines()
    assert lines[0].endswith("25 of 25 sampled records cannot be used")
    assert len(lines) == 12
    assert lines[-1] == "  and 15 more"


def test_a_sample_is_the_same_each_time_and_drawn_from_all():
    split = records.open_split("embedded:train")
    first, second = (Sample.take(split, 60, PAIRS) for _ in range(2))
    assert [item.id for item in first.records] == [item.id for item in second.records]
    places = {item.id: place for place, item in enumerate(split.records())}
    drawn = [places[item.id] for item in first.records]
    assert all(a < b for a, b in itertools.pairwise(drawn))
    assert drawn[0] < 0.2 * len(split)
    assert drawn[-1] > 0.8 * len(split)


def test_the_share_of_captions_that_are_cut():
    tokenizer = Tokenizer.load("embedded")
    captions = ["cat", "a cat that sleeps on a red chair", "two dogs", "x" * 100]
    lengths = tokenizer.lengths(captions)
    whole, cut = tokenizer.encode(captions, 200), tokenizer.encode(captions, 4)
    assert np.array_equal(lengths, (whole != tokenizer.pad_id).sum(axis=1))
    is_cut = [
        np.any(row != short) or np.any(rest)
        for row, short, rest in zip(whole[:, :4], cut, whole[:, 4:], strict=True)
    ]
    assert f"{np.mean(is_cut):.2%} are cut at model.text_tokens=4" in length_line("d", lengths, 4)


def test_the_histogram_shows_every_caption():
    lengths = {"a": np.array([1, 2, 2, 3, 90], np.int32), "b": np.arange(1, 51, dtype=np.int32)}
    figure = drawings.token_lengths(lengths, limit=10)
    for axes, own in zip(figure.axes, lengths.values(), strict=True):
        bars = {
            round(bar.get_x() + 0.5): bar.get_height()
            for bar in axes.patches
            if isinstance(bar, Rectangle)
        }
        assert sum(bars.values()) == pytest.approx(100)
        assert bars[2] == pytest.approx(100 * np.mean(own == 2))
        assert f"{np.mean(own > 10):.2%} of {len(own)} captions" in axes.get_title()


def test_the_grid_shows_captions_as_they_are(tmp_path: Path):
    items = [record(number, captions=(rf"${number} \frac and $5",)) for number in range(50)]
    figure = drawings.sample_grid("many", items)
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(shown) == drawings.GRID_COLUMNS * drawings.GRID_ROWS
    assert shown[0] == r"$0 \frac and $5"
    assert shown[12] == r"$25 \frac and $5"
    drawings.write(figure, epath.Path(tmp_path / "grid.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert len(drawings.sample_grid("few", items[:2]).axes) == drawings.GRID_COLUMNS


def test_too_slow_an_input_fails(capsys):
    assert run_program(check, TINY, *QUICK, "--needed_pairs_per_second=1e9") == 2
    shown = capsys.readouterr()
    assert "needs 1,000,000,000 pairs/s per host (as given), delivers " in shown.out
    assert "error: the input is too slow: 1,000,000,000 pairs/s are needed per host" in shown.err


def test_a_topology_says_what_is_needed(capsys):
    arguments = ("--topology=v5e:4x4", "--assumed_mfu=0.4", "--config.batch_size=16")
    assert run_program(check, TINY, *QUICK, *arguments) == 2
    shown = capsys.readouterr()
    assert "(v5e:4x4 at an assumed MFU of 40% takes " in shown.out
    assert "from 4 hosts, 4 chips each), delivers " in shown.out
    assert "error: the input is too slow" in shown.err


def test_what_is_needed_follows_from_the_steps_flops():
    config = resolve_without_data(get_config("b16"))
    topology = Topology.parse("v5e:16x16")
    need = delivery_rate.Need.of_step(config, topology, 0.5)
    assert need.hosts == 64
    # Half of 4 chips' 197 TFLOP/s; test_flops.py holds the FLOPs of a pair against the compiler's.
    assert need.pairs_per_second == pytest.approx(1024, rel=0.01)
    half = delivery_rate.Need.of_step(config, topology, 0.25)
    assert need.pairs_per_second == pytest.approx(2 * half.pairs_per_second)


def test_what_is_timed_is_a_hosts_share(monkeypatch):
    asked = {}

    def training_batches(options, **values):
        asked.update(values)
        return itertools.repeat({})

    monkeypatch.setattr(pipeline, "training_batches", training_batches)
    config = resolve_without_data(get_config("b16"))
    assert delivery_rate.delivered(config, hosts=64, seconds=0.01) > 0
    assert asked["global_batch_size"] == 4096
    assert np.array_equal(asked["rows"]["train"], np.arange(64))
    delivery_rate.delivered(config, hosts=1, seconds=0.01)
    assert len(asked["rows"]["train"]) == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        ([TINY, "--topology=v9:1"], "unknown topology 'v9:1'"),
        ([TINY, "--topology=v5e:16x16"], "batch_size=32 cannot be divided"),
        ([TINY, "--topology=h100:8", "--needed_pairs_per_second=1"], "give one of them"),
        ([TINY, "--config.model.vocabulary_size=7"], "model.vocabulary_size=7"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert run_program(check, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_nothing_missing_gives_the_tokenizer():
    inventory = Inventory.take(get_config("tiny"))
    assert inventory.require_all().vocabulary_size == 4096
    config = get_config("tiny")
    config.data.train = "embedded:nothing"
    with pytest.raises(InputError, match=r"1 of the 4 .*\(data.train\)"):
        Inventory.take(config).require_all()
