"""An ingest that is killed, and the one that continues it."""

import dataclasses
import fcntl
import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oner_jax import ingest
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion import processes
from oner_jax.data.ingestion.options import ConversionOptions, IngestOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.sources import Dropped, Reason
from oner_jax.errors import InputError
from tests.data.ingestion.fakes import NAME, example, files, in_parts, make
from tests.data.samples import encoded, picture, write_jsonl

ENTRIES = [
    *(
        example(n, captions=(f"the thin thing {n} in the thicket",), split="test" if n == 5 else "")
        for n in range(9)
    ),
    Dropped("fake:9", Reason.BROKEN_ENTRY, "no JSON"),
    example(10, id="example-2"),
    example(11, read_image=functools.partial(bytes, b"<html>")),
    example(12, read_image=functools.partial(bytes, encoded(picture(0), "JPEG")[:-40])),
    example(13, captions=("", "the thin thing 1 in the thicket")),
    example(
        1, captions=("the thin thing 1 in the thicket", "the thin thing 1 in the thin thicket")
    ),
    example(0, captions=("the thin thing 0 in the thicket",)),
    example(1, captions=("the thick thing 1 in the thicket",)),
]
# Several shards a split, a tokenizer, something dropped: every kind of file.
OPTIONS = IngestOptions(vocabulary_size=278, shard_bytes=1500)

CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests make thousands of small files, and cut no power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """Nothing catches it."""


def kill_before_change(monkeypatch, number: int) -> None:
    """The change of the file system with this number, and all after it, do not happen."""
    happened = 0

    def dying(change):
        def change_or_die(*arguments, **keywords):
            nonlocal happened
            happened += 1
            if happened > number:
                raise Killed
            return change(*arguments, **keywords)

        return change_or_die

    for name in CHANGES:
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


def test_killed_before_any_change_it_ends_with_the_same_bytes(tmp_path, monkeypatch):
    make(in_parts(ENTRIES, 5), tmp_path / "undisturbed", OPTIONS)
    expected = files(tmp_path / "undisturbed")
    assert {"dropped.jsonl", "tokenizer.model", "train/manifest.json"} < expected.keys()
    assert "train/shard-00001.array_record" in expected
    number, kills = 0, 0
    while True:
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        log = folder / "log"
        parts = in_parts(ENTRIES, 5, log)
        staging = Staging(ingest.epath.Path(folder / "out"))
        with monkeypatch.context() as patch:
            kill_before_change(patch, number)
            try:
                make(parts, folder / "out", OPTIONS)
                break
            except Killed:
                kills += 1
        unfinished = [part.name for n, part in enumerate(parts) if not staging.rows(n).exists()]
        published = (folder / "out").exists() and not any(staging.folder.iterdir())
        log.unlink(missing_ok=True)
        if published:
            # Nothing but the empty folder beside it was left to go.
            with pytest.raises(InputError, match="exists already"):
                make(parts, folder / "out", OPTIONS)
        else:
            make(parts, folder / "out", OPTIONS)
        assert files(folder / "out") == expected, number
        assert {path.name for path in folder.iterdir()} <= {"out", "log"}
        if log.exists():
            assert log.read_text().split("\n")[:-1] == unfinished  # and no other
        number += 1
    assert kills > 40


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """An output whose ingest was killed when all parts were converted."""
    with monkeypatch.context() as patch:
        patch.setattr(ingest.decisions, "decide", lambda *_: _die())
        with pytest.raises(Killed):
            make(in_parts(ENTRIES, 5), tmp_path / "out", OPTIONS)
    return tmp_path / "out"


def _die():
    raise Killed


def changed(**conversion) -> IngestOptions:
    return dataclasses.replace(
        OPTIONS, conversion=dataclasses.replace(OPTIONS.conversion, **conversion)
    )


def test_another_source_or_option_is_refused(interrupted):
    before = files(interrupted.parent)
    cases = [
        (in_parts(ENTRIES, 4), OPTIONS, "another source"),
        (in_parts(ENTRIES[1:], 5), OPTIONS, "another source"),
        (
            in_parts(ENTRIES, 5),
            changed(images=ImageOptions(128)),
            "--maximum_side=256 there",
        ),
        (in_parts(ENTRIES, 5), changed(unpaired="keep"), "--unpaired=drop there"),
    ]
    for parts, options, reason in cases:
        with pytest.raises(InputError) as error:
            make(parts, interrupted, options)
        assert reason in str(error.value)
        assert "delete it to begin anew" in str(error.value)
        assert "\n" not in str(error.value)
        assert files(interrupted.parent) == before
    make(in_parts(ENTRIES, 5), interrupted, OPTIONS)


def test_what_concerns_no_finished_work_may_change(interrupted):
    other = dataclasses.replace(OPTIONS, shard_bytes=700, vocabulary_size=0)
    make(in_parts(ENTRIES, 5), interrupted, other)
    make(in_parts(ENTRIES, 5), interrupted.with_name("whole"), other)
    assert files(interrupted) == files(interrupted.with_name("whole"))


def test_decisions_stand_once_a_shard_is_written(tmp_path):
    too_many = dataclasses.replace(OPTIONS, vocabulary_size=9999)
    with pytest.raises(InputError, match="give at most"):
        make(in_parts(ENTRIES, 5), tmp_path / "out", too_many)
    other = dataclasses.replace(OPTIONS, validation_fraction=0.3)
    with pytest.raises(InputError, match=r"--validation_fraction=0\.05 there"):
        make(in_parts(ENTRIES, 5), tmp_path / "out", other)
    # The tokenizer is made last, so it may.
    make(in_parts(ENTRIES, 5), tmp_path / "out", OPTIONS)
    make(in_parts(ENTRIES, 5), tmp_path / "whole", OPTIONS)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_two_at_once_are_refused(interrupted):
    folder = interrupted.with_name(".out.partial")
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = files(folder)
    with pytest.raises(InputError, match="another ingest is writing it"):
        make(in_parts(ENTRIES, 5), interrupted, OPTIONS)
    assert files(folder) == before
    os.close(descriptor)
    make(in_parts(ENTRIES, 5), interrupted, OPTIONS)


def test_remote_output_needs_neither_renaming_nor_locks(tmp_path, monkeypatch):
    make(in_parts(ENTRIES, 5), tmp_path / "local", OPTIONS)
    monkeypatch.setattr(Staging, "is_remote", True)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda *_: _die())
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "train_tokenizer", lambda *_: _die())
        with pytest.raises(Killed):
            make(in_parts(ENTRIES, 5), tmp_path / "out", OPTIONS)
    make(in_parts(ENTRIES, 5), tmp_path / "out", OPTIONS)
    assert files(tmp_path / "out") == files(tmp_path / "local")
    assert not (tmp_path / ".out.partial").exists()
    with pytest.raises(InputError, match="exists already"):
        make(in_parts(ENTRIES, 5), tmp_path / "out", OPTIONS)


def test_processes_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FEW_EXAMPLES", 0)
    make(in_parts(ENTRIES, 2), tmp_path / "one", OPTIONS)
    arguments = (in_parts(ENTRIES, 2), NAME, str(tmp_path / "two"), OPTIONS)
    ingest.write_dataset(*arguments, processes.ProcessRunner(2))
    assert files(tmp_path / "one") == files(tmp_path / "two")


SMALL_PARTS = """
from oner_jax import ingest
from oner_jax.command_line import program as program_ends
from oner_jax.data.ingestion import ingest_flags, processes
ingest_flags.EXAMPLES_PER_PART = 50
processes.FEW_EXAMPLES = 0
ingest.define_flags()
program_ends.run_program(ingest.main)
"""


def _finished(folder: Path) -> dict[str, int]:
    """What needs not be made again, by the time at which it was written."""
    parts, shards = folder.glob("parts/*.parquet"), folder.glob("shards/*/*.json")
    return {str(path): path.stat().st_mtime_ns for path in (*parts, *shards)}


def _kill_when(program: "subprocess.Popen[bytes]", folder: Path, amount: int, delay: float) -> bool:
    """Kills the program and its processes once so much is finished; False if it ended before."""
    while len(_finished(folder)) < amount and program.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    ended = program.poll() is not None
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    return not ended


@pytest.mark.slow
def test_ten_kills_of_the_program_change_no_byte(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(3000):
        file = encoded(picture(n, 200, 300), "JPEG")[: None if n % 400 else -40]
        (tmp_path / "images" / f"{n}.jpg").write_bytes(file)
    rows = [
        {"image": f"images/{n}.jpg", "caption": f"thing {n}", "id": f"{n % 2990}"}
        for n in range(3000)
    ]
    command = [sys.executable, "-c", SMALL_PARTS, f"--source={write_jsonl(tmp_path, rows)}"]
    command += ["--processes=2", "--maximum_side=100", "--shard_megabytes=1"]

    def start(output: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, f"--output={output}"], start_new_session=True)

    assert start(tmp_path / "undisturbed").wait() == 0
    expected = files(tmp_path / "undisturbed")
    everything = 60 + sum(name.endswith(".array_record") for name in expected)
    output, folder = tmp_path / "killed", tmp_path / ".killed.partial"
    chance = random.Random(0)
    finished: dict[str, int] = {}
    for number in range(10):
        left = everything - len(finished)
        amount = len(finished) + chance.randint(1, max(1, 2 * left // (11 - number)))
        assert _kill_when(start(output), folder, amount, chance.uniform(0, 0.1))
        if output.exists():
            break  # killed between its last change and its exit: it was finished
        now = _finished(folder)
        assert finished.items() <= now.items()  # nothing was made again
        finished = now
    assert number >= 5, "it was killed in the middle"
    if not output.exists():
        assert start(output).wait() == 0
    assert files(output) == expected
    assert not folder.exists()


def test_conversion_options_are_part_of_the_plan():
    """A new option that changes the records must not be forgotten there."""
    plan = IngestOptions().plan([]).everything
    for options in (IngestOptions(), ConversionOptions(), ImageOptions()):
        for field in dataclasses.fields(options):
            if field.name in ("conversion", "images", "filters", "vocabulary_size"):
                continue
            name = {"shard_bytes": "shard_megabytes"}.get(field.name, field.name)
            assert f"--{name}" in plan
