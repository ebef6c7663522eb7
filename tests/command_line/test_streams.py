"""Programs whose output is not read, cannot be written or cannot be encoded: they go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oner_jax.training.checkpointing.checkpoints import available_steps
from tests.marks import slow

ROOT = Path(__file__).parents[2]
WORK = """
import sys
from pathlib import Path
from oner_jax.command_line.program import run_program
def main(_):
    for line in range(5000):
        print("line", line, "of 日本 and \\udce9")
        print("aside", line, file=sys.stderr)
    Path({done!r}).write_text("all")
run_program(main)
"""
PROGRAMS = (
    *(f"oner_jax.{name}" for name in ("train", "evaluate", "plan", "bench", "export", "embed")),
    *(f"oner_jax.{name}" for name in ("search", "demo_page")),
    *(f"oner_jax.data.{name}" for name in ("ingest", "check", "text")),
    *(f"launch.{name}" for name in ("sweep", "gke", "preflight")),
)
CASES = ("unread", "full", "closed", "closed errors", "Latin-1")


def run(command: list[str], case: str) -> subprocess.CompletedProcess[str]:
    """The command with its standard output (or error) in one of these states."""
    environment = dict(os.environ)
    read, write = os.pipe()
    os.close(read)  # as after `| head` has ended
    outputs: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    prepare = None
    if case == "unread":
        outputs["stdout"] = write
    elif case == "full":
        outputs["stdout"] = open("/dev/full", "w")  # noqa: SIM115
    elif case == "closed":
        prepare = lambda: os.close(1)  # noqa: E731
    elif case == "closed errors":
        prepare = lambda: os.close(2)  # noqa: E731
    else:
        environment["PYTHONIOENCODING"] = "latin-1"
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            preexec_fn=prepare,
            encoding="latin-1",
            timeout=300,
            **outputs,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize("case", CASES)
def test_work_goes_on_to_its_end(tmp_path, case):
    done = tmp_path / "done"
    result = run([sys.executable, "-c", WORK.format(done=str(done))], case)
    assert done.exists(), result.stderr
    asides = (result.stderr or "").splitlines()
    if case == "full":
        assert result.returncode == 1
        assert asides.pop() == "error: standard output is not complete: No space left on device"
    else:
        assert result.returncode == 0, asides[-3:]
    assert all(line.startswith("aside ") for line in asides)
    if case == "Latin-1":
        assert "line 4999 of \\u65e5\\u672c and \\udce9\n" in result.stdout


@pytest.mark.parametrize("case", ["unread", "full", "closed"])
@pytest.mark.parametrize("program", [slow(name) for name in PROGRAMS])
def test_every_program_speaks_into_any_stream(program, case):
    result = run([sys.executable, "-m", program, "--help"], case)
    complaint = result.stderr or ""
    assert "Traceback" not in complaint
    assert "Exception" not in complaint
    assert "BrokenPipe" not in complaint
    if case == "full":
        assert result.returncode == 1


TRAIN = (
    *(sys.executable, "-m", "oner_jax.train", "--config=configs/oner.py:tiny"),
    *("--config.log_interval_steps=1", "--config.checkpoint.interval_steps=1000"),
)


@pytest.mark.slow
def test_a_run_behind_head_saves_its_end(tmp_path):
    result = run([*TRAIN, f"--workdir={tmp_path / 'run'}"], "unread")
    assert result.returncode == 0, result.stderr
    assert available_steps(tmp_path / "run") == [30]


@pytest.mark.slow
def test_a_run_whose_terminal_is_lost_saves_and_ends_with_75(tmp_path):
    """The terminal's end of its streams closes, and SIGHUP comes."""
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [*TRAIN, f"--workdir={workdir}", "--config.total_steps=100000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=200) == 75
    assert len(available_steps(workdir)) == 1
