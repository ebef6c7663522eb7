"""One run in a workdir at a time, also where there are no file locks (object storage).

`lock.json` says who holds the workdir and carries a heartbeat. A second run is refused. A lock is
taken over, with a line, where its process has ended on this host, or where its heartbeat stands
still; whoever held it finds another's name in it at its next beat, and stops. No two hosts' clocks
are compared: whether a heartbeat moves is watched.
"""

import dataclasses
import datetime
import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from etils import epath

from oner_jax.errors import InputError, StorageError
from oner_jax.files import is_remote, write_whole
from oner_jax.training.storage import failure_reason

LOCK_FILE = "lock.json"
# Our choice: storage may hang for some beats before anyone takes the run for dead.
_BEAT_SECONDS = 15.0
_STILL_SECONDS = 90.0
_POLL_SECONDS = 1.0
# How systems name what a file system does not have: EMLINK where a file may have one name only.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL)
# Object storage cannot create a file only if it is not there: of two, the last to write has it.
_SETTLE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that holds a workdir. `place` is the host, its boot and its process namespace:
    where it is the same, whether the process lives can be asked of the system."""

    host: str
    place: str
    pid: int
    process_began: str
    since: str
    token: str
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """The lock of `workdir`, held inside the context; StorageError from `check` when it is lost.

    Raises InputError, naming the holder, where another run has it.
    """

    def __init__(self, workdir: epath.PathLike):
        self._path = epath.Path(workdir) / LOCK_FILE
        self._own = Holder(
            host=socket.gethostname(),
            place=_place(),
            pid=os.getpid(),
            process_began=_process_began(os.getpid()),
            since=datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            token=uuid.uuid4().hex,
            beat=0,
        )
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def __enter__(self) -> "Lock":
        while not self._create():
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            if self._is_own():
                self._path.unlink(missing_ok=True)
        except Exception as error:  # the run is over; its lock will be found stale
            if failure_reason(error) is None:
                raise

    @property
    def token(self) -> str:
        """What tells this lock from every other."""
        return self._own.token

    def check(self) -> None:
        """Raise StorageError if the workdir is no longer this run's."""
        if self._lost is not None:
            raise StorageError(self._lost)

    def _create(self) -> bool:
        """Write the lock where there is none; whether this process has it now."""
        text = json.dumps(dataclasses.asdict(self._own)) + "\n"
        if not is_remote(self._path):
            # Whole before it has its name, which a link gives to one process alone.
            draft = self._path.with_name(f"{LOCK_FILE}.{self._own.token}")
            draft.write_text(text)
            try:
                os.link(draft, self._path)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            finally:
                draft.unlink()
        # Without hard links (exFAT, and what FUSE makes of buckets and of Drive), as on object
        # storage: of two that write, one finds itself in the file.
        if self._path.exists():
            return False
        try:
            if is_remote(self._path):
                self._path.write_text(text)
            else:
                with Path(self._path).open("x") as file:
                    file.write(text)
        except FileExistsError:
            return False
        time.sleep(_SETTLE_SECONDS)
        return self._is_own()

    def _take_over(self) -> None:
        """Remove the lock of a run that has ended; raise InputError where it goes on."""
        holder = _read(self._path)
        if holder is not None and self._lives(holder):
            raise InputError(
                f"{self._path.parent} is in use by another run ({holder}): wait for it or end it, "
                "or choose another --workdir"
            )
        # Of two that take over, one finds the file.
        aside = self._path.with_name(f"{LOCK_FILE}.stale-{self._own.token}")
        try:
            self._path.rename(aside)
        except Exception:  # what a missing file raises is each storage's own
            if self._path.exists():
                raise
            return
        if _read(aside) != holder:
            aside.rename(self._path)  # the other one has taken over in the meantime
            return
        aside.unlink(missing_ok=True)
        print(f"took over the workdir from a run that has ended ({holder})", file=sys.stderr)

    def _lives(self, holder: Holder) -> bool:
        """Whether a process is there: the system knows of its own, a heartbeat tells of others."""
        if holder.place == self._own.place:
            return holder.process_began == _process_began(holder.pid)
        print(
            f"{self._path.parent} may be in use ({holder}): watching for {_STILL_SECONDS:.0f} s "
            "whether that run still lives",
            file=sys.stderr,
        )
        deadline = time.monotonic() + _STILL_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            if (found := _read(self._path)) != holder:
                return found is not None
        return False

    def _is_own(self) -> bool:
        found = _read(self._path)
        return found is not None and found.token == self._own.token

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            try:
                self._beat_once()
            except Exception as error:  # storage that fails for a while is the saves' matter
                if failure_reason(error) is None:
                    raise

    def _beat_once(self) -> None:
        found = _read(self._path)
        if found is None or found.token != self._own.token:
            there = "its lock has gone" if found is None else f"{found} has taken it over"
            self._lost = f"{self._path.parent} is no longer this run's: {there}"
            self._ended.set()
            return
        self._own = dataclasses.replace(self._own, beat=self._own.beat + 1)
        write_whole(self._path, json.dumps(dataclasses.asdict(self._own)) + "\n")


def token_in(workdir: epath.PathLike) -> str | None:
    """Return the token of the lock that this process finds in `workdir`; None without one."""
    found = _read(epath.Path(workdir) / LOCK_FILE)
    return None if found is None else found.token


def _read(path: epath.Path) -> Holder | None:
    """Who holds the lock; None where it is not there or says nothing."""
    if not path.exists():
        return None
    try:
        content: Any = json.loads(path.read_text())
        return Holder(**content)
    except (ValueError, TypeError, FileNotFoundError):
        return None


def _place() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())
        except OSError:
            parts.append("")  # not on Linux
    return " ".join(parts)


def _process_began(pid: int) -> str:
    """When process `pid` began, as this host counts: tells it from a later one of that number."""
    try:
        # After the second field, a name in brackets that may hold spaces: state and, 19 on, start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self").exists():
        return "ended"
    try:
        os.kill(pid, 0)  # not on Linux: sends nothing, and fails where there is no such process
    except ProcessLookupError:
        return "ended"
    except PermissionError:
        pass
    return "lives"
