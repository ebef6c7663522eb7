"""The sweep program: what is skipped, continued, run at once and named; then the whole ladder.

Most tests give runs that are one-line Python programs in the place of training and evaluation.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.ladder import ARMS
from launch import sweep as sweep_program
from launch.runs import Run
from launch.sweep import load_sweep, plan, run_all
from oner_jax.claims import report as sweep_report
from oner_jax.claims.sweep import Sweep, Trial
from oner_jax.errors import InputError
from oner_jax.training.checkpointing.checkpoints import available_steps
from tests.data.samples import run_program

ROOT = Path(__file__).parents[2]


def _run(folder: Path, name: str, *programs: str, seed: int = 0) -> Run:
    commands = tuple(("tests.launch.program", program, str(folder)) for program in programs)
    return Run(Trial(name, "recipe"), seed, folder / name / f"seed-{seed}", commands)


def _note(word: str) -> str:
    """A program that leaves `word` in the folder's notes."""
    return f"import sys; open(sys.argv[1] + '/notes', 'a').write('{word} ')"


def _notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().split()


def test_finished_runs_are_skipped_and_changed_ones_are_not(tmp_path, capsys):
    runs = [_run(tmp_path, "a", _note("a1"), _note("a2")), _run(tmp_path, "b", _note("b"))]
    assert run_all(runs, 1, ()) == {}
    assert _notes(tmp_path) == ["a1", "a2", "b"]
    assert run_all(runs, 1, ()) == {}
    assert _notes(tmp_path) == ["a1", "a2", "b"]
    assert "2 of them finished before" in capsys.readouterr().out
    run_all([runs[0], _run(tmp_path, "b", _note("new"))], 1, ())
    assert _notes(tmp_path) == ["a1", "a2", "b", "new"]


def test_a_failing_run_is_named_and_the_rest_goes_on(tmp_path, capsys):
    broken = _run(tmp_path, "broken", "raise SystemExit('the reason')", _note("never"), seed=7)
    failures = run_all([broken, _run(tmp_path, "sound", _note("sound"))], 1, ())
    assert list(failures) == ["broken seed 7"]
    assert _notes(tmp_path) == ["sound"]
    printed = capsys.readouterr().out
    assert "broken seed 7: FAILED: exit code 1" in printed
    assert "    the reason" in printed
    # It is tried again next time.
    assert list(run_all([broken], 1, ())) == ["broken seed 7"]


def test_runs_side_by_side_are_at_once(tmp_path):
    # Each waits for the other's sign of life.
    meet = (
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[1]); (folder / '{own}').touch()\n"
        "while not (folder / '{other}').exists(): time.sleep(0.02)"
    )
    runs = [
        _run(tmp_path, "a", meet.format(own="x", other="y")),
        _run(tmp_path, "b", meet.format(own="y", other="x")),
    ]
    assert run_all(runs, 2, ()) == {}


def test_a_run_that_outlived_its_sweep_is_waited_for(tmp_path):
    run = _run(tmp_path, "a", _note("second"))
    run.folder.parent.mkdir(parents=True)
    lock = run.beside(".lock")
    program = (
        "import fcntl, sys, time\n"
        f"lock = open({str(lock)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); time.sleep(1)\n" + _note("first")
    )
    orphan = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert orphan.stdout is not None
    assert orphan.stdout.readline() == "locked\n"
    assert run_all([run], 1, ()) == {}
    assert orphan.wait() == 0
    orphan.stdout.close()
    assert _notes(tmp_path) == ["first", "second"]


def test_all_trials_of_a_seed_come_before_the_next_seed(tmp_path):
    sweep = Sweep((Trial("a", "r.py:x", {"k": 2}), Trial("b", "r.py:y")), seeds=(0, 5))
    runs = plan(sweep, tmp_path)
    assert [run.name for run in runs] == ["a seed 0", "b seed 0", "a seed 5", "b seed 5"]
    train, evaluate = runs[2].commands
    workdir = tmp_path / "a" / "seed-5"
    assert train == (
        *("oner_jax.train", "--config=r.py:x", "--config.k=2", "--config.seed=5"),
        f"--workdir={workdir}",
    )
    assert evaluate[:2] == ("oner_jax.evaluate", f"--workdir={workdir}")


def test_a_sweep_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no file nowhere\.py"):
        load_sweep("nowhere.py:x")
    (tmp_path / "empty.py").touch()
    with pytest.raises(InputError, match=r"has no get_sweep"):
        load_sweep(str(tmp_path / "empty.py"))


def test_running_a_part_leaves_the_rest_in_the_tables(tmp_path, monkeypatch):
    runs: list[Run] = []
    reported: list[Sweep] = []

    def note_runs(chosen, side_by_side, launcher):
        runs.extend(chosen)
        return {}

    def note_report(sweep, folder):
        reported.append(sweep)
        return []

    monkeypatch.setattr(sweep_program, "run_all", note_runs)
    monkeypatch.setattr(sweep_report, "write", note_report)
    options = (f"--sweep={ROOT}/configs/ladder.py:tiny", "--only=oner", "--seeds=7")
    assert run_program(sweep_program, f"--workdir={tmp_path}", *options) == 0
    assert [run.name for run in runs] == ["oner seed 7"]
    assert [trial.name for trial in reported[0].trials] == list(ARMS)
    assert reported[0].seeds == (0, 7)


def _sweep(workdir: Path, *options: str) -> "subprocess.Popen[str]":
    # One device: these are many small programs, and eight fake devices make each slower.
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.Popen(
        [sys.executable, "-m", "launch.sweep", f"--workdir={workdir}", *options],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "--sweep is missing"),
        (("--sweep=configs/none.py",), "there is no file configs/none.py"),
        (("--sweep=configs/ladder.py:tinny",), "did you mean 'tiny'?"),
        (("--sweep=configs/ladder.py:tiny", "--only=naiv"), "did you mean 'naive'?"),
        (("--sweep=configs/ladder.py:tiny", "--seeds=one"), "'one' is no whole number"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, options, complaint):
    process = _sweep(tmp_path / "sweep", *options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert complaint in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_whole_tiny_ladder_survives_a_kill(tmp_path):
    folder = tmp_path / "ladder"
    options = ("--sweep=configs/ladder.py:tiny", "--side_by_side=4")
    killed = _sweep(folder, *options)
    while not (finished := list(folder.glob("*/seed-0.json"))):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in finished}

    process = _sweep(folder, *options)
    printed, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, printed + errors
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for arm in ARMS:
        assert available_steps(folder / arm / "seed-0") == [2, 4]
    table = (folder / "table.md").read_text()
    assert all(f"| {arm.label} |" in table for arm in ARMS.values())
    for name in ("table.csv", "verdicts.md", "retrieval.png", "instruments.png", "maps.png"):
        assert (folder / name).stat().st_size > 0
