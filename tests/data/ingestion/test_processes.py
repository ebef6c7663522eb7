import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oner_jax.data.ingestion import processes
from oner_jax.errors import ClusterError, InputError

SLEEPING = """
import time
from oner_jax.data.ingestion import processes
processes.PRELOADED = ()
if __name__ == "__main__":
    print("started", flush=True)
    list(processes.ProcessRunner(2)(time.sleep, [600.0] * 4, None))
"""


@pytest.fixture(autouse=True)
def light_processes(monkeypatch):
    monkeypatch.setattr(processes, "PRELOADED", ())


def _refuse(number: int) -> None:
    if number == 3:
        raise InputError("the third is bad")


def test_every_task_is_done_once():
    tasks = list(range(40))
    assert sorted(processes.ProcessRunner(2)(abs, tasks, None)) == tasks
    assert list(processes.ProcessRunner(1)(abs, tasks, None)) == tasks
    assert list(processes.ProcessRunner(0)(abs, [], 0)) == []


def _note_process(path: Path) -> None:
    path.write_text(str(os.getpid()))


def test_what_is_soon_done_is_done_here(tmp_path):
    tasks = [tmp_path / str(number) for number in range(3)]

    def workers(examples: int) -> set[int]:
        assert set(processes.ProcessRunner(2)(_note_process, tasks, examples)) == set(tasks)
        return {int(task.read_text()) for task in tasks}

    assert workers(processes.FEW_EXAMPLES) == {os.getpid()}
    assert os.getpid() not in workers(processes.FEW_EXAMPLES + 1)


def test_an_error_in_a_process_is_raised_here():
    with pytest.raises(InputError, match="the third is bad"):
        list(processes.ProcessRunner(2)(_refuse, list(range(10)), None))


def test_a_dead_process_is_reported():
    with pytest.raises(ClusterError, match="the same command continues"):
        list(processes.ProcessRunner(2)(os._exit, [1, 1, 1], None))


def test_processes_end_with_the_one_that_started_them():
    program = subprocess.Popen(
        [sys.executable, "-c", SLEEPING], stdout=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"started\n"
    while _members(program.pid) < 4:  # itself, the server of forks, and two that sleep
        time.sleep(0.05)
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 60
    while _members(program.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = _members(program.pid)
    if left:
        os.killpg(program.pid, signal.SIGKILL)
    assert left == 0


def _members(group: int) -> int:
    """How many processes are in a process group."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid="], capture_output=True, text=True, check=True)
    return listed.stdout.split().count(str(group))
