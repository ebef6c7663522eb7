"""One run in a workdir: other processes, dead ones, and other hosts as their files show them."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oner_jax.errors import InputError, StorageError
from oner_jax.training.checkpointing import lock
from oner_jax.training.checkpointing.lock import LOCK_FILE, Lock

ROOT = Path(__file__).parents[3]
HOLD = (
    "import sys; from oner_jax.training.checkpointing.lock import Lock\n"
    "with Lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "_STILL_SECONDS", 0.5)
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.05)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(workdir: Path, beat: int = 0) -> None:
    """The lock as a process on another host leaves it."""
    held = json.loads((workdir / LOCK_FILE).read_text())
    held |= {"host": "far", "place": "far boot namespace", "token": "theirs", "beat": beat}
    (workdir / LOCK_FILE).write_text(json.dumps(held))


def test_a_second_run_is_refused_naming_the_first(tmp_path, other):
    with pytest.raises(
        InputError, match=rf"in use by another run \(process {other.pid} on .+, since 2"
    ):
        Lock(tmp_path).__enter__()
    other.communicate(b"")
    with Lock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, other, capsys, reaped):
    other.kill()
    if reaped:
        other.wait()
    else:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with Lock(tmp_path):
        pass
    said = capsys.readouterr().err
    assert f"took over the workdir from a run that has ended (process {other.pid} on" in said
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_number_is_not_the_holder(tmp_path):
    with Lock(tmp_path):
        held = json.loads((tmp_path / LOCK_FILE).read_text())
    (tmp_path / LOCK_FILE).write_text(json.dumps(held | {"process_began": "12", "token": "theirs"}))
    with Lock(tmp_path):
        pass


def test_a_lock_from_elsewhere_is_taken_over_only_if_its_heartbeat_stands_still(
    tmp_path, capsys, monkeypatch
):
    with Lock(tmp_path):
        elsewhere(tmp_path)
    with Lock(tmp_path):
        pass
    said = capsys.readouterr().err
    assert "may be in use" in said
    assert "took over the workdir" in said

    with Lock(tmp_path):
        elsewhere(tmp_path)
    beats = iter(range(1, 1000))

    def sleep(_: float) -> None:
        elsewhere(tmp_path, next(beats))

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(InputError, match=r"process .* on far, since"):
        Lock(tmp_path).__enter__()


def test_who_loses_the_lock_stops_and_leaves_it(tmp_path):
    with Lock(tmp_path) as held:
        held.check()
        elsewhere(tmp_path)
        held._thread.join()
        with pytest.raises(StorageError, match=r"no longer this run's: process .* on far.* taken"):
            held.check()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "theirs"


def test_a_workdir_that_vanishes_is_noticed(tmp_path):
    with Lock(tmp_path) as held:
        (tmp_path / LOCK_FILE).unlink()
        held._thread.join()
        with pytest.raises(StorageError, match="its lock has gone"):
            held.check()


def test_of_many_that_come_at_once_one_has_it(tmp_path):
    """Also over a stale lock, which all of them see."""
    with Lock(tmp_path):
        held = json.loads((tmp_path / LOCK_FILE).read_text())
    (tmp_path / LOCK_FILE).write_text(json.dumps(held | {"process_began": "12"}))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    # Losers end by themselves; the winner when it is told.
    for process in processes:
        assert process.stdout is not None
        process.held = process.stdout.readline() == b"held\n"  # type: ignore[attr-defined]
    errors = [process.communicate(b"")[1].decode() for process in processes]
    assert sum(process.returncode == 0 for process in processes) == 1, errors
    assert sum("in use by another run" in error for error in errors) == 3


def _refuse_links(*_, **__):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_where_there_are_no_hard_links(tmp_path, monkeypatch):
    """As exFAT and FUSE refuse them; of two that come at once, one has it."""
    monkeypatch.setattr(lock.os, "link", _refuse_links)
    with Lock(tmp_path):
        with pytest.raises(InputError, match="in use"):
            Lock(tmp_path).__enter__()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    assert list(tmp_path.iterdir()) == []
    barrier = threading.Barrier(4)

    def come(number: int) -> bool:
        held = Lock(tmp_path)
        barrier.wait()
        try:
            held.__enter__()
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(come, range(4))) == 1


@pytest.fixture
def exfat(tmp_path):
    """A real file system without hard links, by FUSE on a loop device, where root allows that."""
    image, folder = tmp_path / "image", tmp_path / "exfat"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    if not all(map(shutil.which, ("mkfs.exfat", "mount.exfat-fuse", "losetup"))):
        pytest.skip("needs exfatprogs and exfat-fuse")
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True
    ).stdout.strip()
    if not device:
        pytest.skip("there are no loop devices here")
    mounted = subprocess.run(["mount.exfat-fuse", device, folder], capture_output=True)
    if mounted.returncode == 0:
        yield folder
        subprocess.run(["umount", folder], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")


def test_on_exfat(exfat):
    (exfat / "file").touch()
    with pytest.raises(PermissionError):
        os.link(exfat / "file", exfat / "link")
    run = exfat / "run"
    run.mkdir()
    with Lock(run), pytest.raises(InputError, match="in use"):
        Lock(run).__enter__()
    assert list(run.iterdir()) == []


def test_on_object_storage(tmp_path, monkeypatch):
    """Without links; of two that write, the last has it."""
    monkeypatch.setattr(lock, "is_remote", lambda path: True)
    with Lock(tmp_path), pytest.raises(InputError, match="in use"):
        Lock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    beats = iter(range(1, 1000))
    monkeypatch.setattr(lock.time, "sleep", lambda _: elsewhere(tmp_path, next(beats)))
    with pytest.raises(InputError, match="on far"):
        Lock(tmp_path).__enter__()
