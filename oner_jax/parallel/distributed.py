"""One run on several hosts: they start together, and the failure of one ends all.

Which processes there are is found out by JAX on Cloud TPU, GKE, Kubernetes, SLURM and Open MPI, or
given by flags. A process that fails says so to the others, and one that is lost is noticed, over
connections of their own (`lifelines`); without that they would wait in the next collective
operation until a time-out without a cause.
"""

import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from oner_jax.command_line import flag_help, streams
from oner_jax.command_line.program import report
from oner_jax.errors import ClusterError, InputError, Preempted
from oner_jax.parallel.accelerators import PLATFORMS, use_platform
from oner_jax.parallel.lifelines import Lifelines
from oner_jax.parallel.likeness import facts
from oner_jax.parallel.rendezvous import Place, listed, meet

with flag_help.group("Processes and devices"):
    COORDINATOR_ADDRESS = flags.DEFINE_string(
        "coordinator_address", None, "By hand on several hosts: host:port of process 0."
    )
    NUM_PROCESSES = flags.DEFINE_integer(
        "num_processes", None, "By hand on several hosts: number of processes; 1 for only this one."
    )
    PROCESS_ID = flags.DEFINE_integer(
        "process_id", None, "By hand on several hosts: this process's number, from 0."
    )
    STARTUP_TIMEOUT_SECONDS = flags.DEFINE_float(
        "startup_timeout_seconds", 300.0, "How long to wait for the other processes."
    )
    HEARTBEAT_TIMEOUT_SECONDS = flags.DEFINE_float(
        "heartbeat_timeout_seconds",
        100.0,
        "How long another process may be silent until it is lost.",
    )
    PLATFORM = flags.DEFINE_enum(
        "platform",
        "auto",
        PLATFORMS,
        "What to run on; auto: the accelerator, if the machine has one.",
    )

# Processes wait for each other as long as it takes: one that has died is noticed by other means.
_PATIENCE_MILLISECONDS = 24 * 3600 * 1000
# When a collective operation breaks because a process is lost, this brings its name.
_BROKEN_SECONDS = 3.0
# Decisions of process 0 stay in the store until no process can still have to read them.
_KEPT_DECISIONS = 100

Found = TypeVar("Found")

_lifelines: Lifelines | None = None


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Take part in the run that the flags, or else the cluster, describe.

    Inside, JAX sees the devices of all processes. An exception ends every process with its exit
    code, except `Preempted`, which all processes raise at the same step.

    Raises ClusterError where processes are missing, InputError for flags or a platform that cannot
    be had.
    """
    place, local_devices = _find_place()
    if place.num_processes == 1:
        use_platform(PLATFORM.value)
        yield
        return
    timeout_seconds = STARTUP_TIMEOUT_SECONDS.value
    meeting = meet(place, facts(), timeout_seconds=timeout_seconds)
    hosts = meeting.hosts
    if PLATFORM.value == "cpu":
        jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(
        place.coordinator_address,
        place.num_processes,
        place.process_id,
        local_device_ids=local_devices if hosts.count(hosts[place.process_id]) > 1 else None,
        cluster_detection_method="deactivate",
        initialization_timeout=int(timeout_seconds),
        # The lifelines come first, because JAX aborts.
        heartbeat_timeout_seconds=int(2 * HEARTBEAT_TIMEOUT_SECONDS.value) + 1,
    )
    if place.process_id == 0:
        named = listed(f"{number} on {host}" for number, host in enumerate(hosts))
        print(f"processes   {named}", file=sys.stderr)
    global _lifelines
    _lifelines = Lifelines(
        place.process_id, hosts, meeting.connections, HEARTBEAT_TIMEOUT_SECONDS.value
    )
    try:
        with _without_output():
            use_platform(PLATFORM.value)
            if jax.default_backend() == "cpu":
                multihost_utils.sync_global_devices("connections")
        yield
        wait_for_all("end")
    except Preempted:
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(_BROKEN_SECONDS)
        exit_code = report(error)
        end_all(str(error) or type(error).__name__, exit_code)
    finally:
        _lifelines.close()
        _lifelines = None


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Discard what is written to standard output, by libraries in C++ too.

    On CPUs, Gloo makes its connections at the first collective operation, and writes a line about
    them where a program's results belong. One of its threads may write it later: then it is seen.
    """
    c_library = ctypes.CDLL(None)
    sys.stdout.flush()
    c_library.fflush(None)
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        c_library.fflush(None)  # C++ keeps its lines back where standard output is a pipe
        os.dup2(kept, 1)
        os.close(kept)


def end_all(cause: str, exit_code: int, *, stacks: bool = False) -> NoReturn:
    """End this process, from any thread, and the others of the run with the cause.

    With `stacks` the others first do what they gave to `before_exit`.
    """
    if _lifelines is not None:
        _lifelines.end_all(cause, exit_code, stacks=stacks)
    streams.flush()
    os._exit(exit_code)


def before_exit(action: Callable[[], None] | None) -> None:
    """What this process does first when another ends all and asks for their stacks."""
    if _lifelines is not None:
        _lifelines.before_exit(action)


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process has come here. `name` is used once in a run."""
    if client := _client():
        client.wait_at_barrier(f"oner_jax/{name}", _PATIENCE_MILLISECONDS)


def gathered(name: str, value: Any) -> list[Any]:
    """What each process that has something true gives (of JSON), in their order, on all of them.

    Waits for all. `name` is used once in a run.
    """
    client = _client()
    if client is None:
        return [value] if value else []
    folder = f"oner_jax/gathered/{name}"
    if value:
        client.key_value_set(f"{folder}/{jax.process_index():06d}", json.dumps(value))
    client.wait_at_barrier(f"{folder}/all", _PATIENCE_MILLISECONDS)
    texts = [text for _, text in sorted(client.key_value_dir_get(folder))]
    client.wait_at_barrier(f"{folder}/read", _PATIENCE_MILLISECONDS)
    if is_main():
        client.key_value_delete(folder)
    return [json.loads(text) for text in texts]


def check_equal(values: Mapping[str, Any]) -> None:
    """Raise InputError where this process's values (of JSON) differ from those of process 0.

    What differs would lead to different programs, which then wait for each other for ever.
    """
    client = _client()
    if client is None:
        return
    mine = json.loads(json.dumps(dict(values)))
    if is_main():
        client.key_value_set("oner_jax/equal", json.dumps(mine))
        return
    theirs = json.loads(client.blocking_key_value_get("oner_jax/equal", _PATIENCE_MILLISECONDS))
    differing = sorted(
        name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
    )
    if differing:
        shown = "; ".join(f"{name}: {theirs.get(name)} -> {mine.get(name)}" for name in differing)
        raise InputError(
            f"this process differs from process 0 ({shown}): give all the same config and data"
        )


def from_main(name: str, find: Callable[[], Found]) -> Found:
    """What `find` returns on process 0 (JSON), on all processes. `name` is used once in a run."""
    client = _client()
    if client is None:
        return find()
    key = f"oner_jax/from_main/{name}"
    if is_main():
        found = find()
        client.key_value_set(key, json.dumps(found))
        return found
    return json.loads(client.blocking_key_value_get(key, _PATIENCE_MILLISECONDS))


class LeadDecision:
    """A yes or no of process 0 that all processes act on at the same call.

    Process 0 says at each call what will hold at the next, so that nobody waits for it: by then the
    word is long there. A process alone acts at once.
    """

    def __init__(self, name: str):
        self._name, self._calls, self._announced = name, 0, False

    def __call__(self, mine: bool) -> bool:
        """What to do now. `mine` is the wish of this process; that of process 0 counts."""
        client = _client()
        if client is None:
            return mine
        self._calls += 1
        if not is_main():
            if self._calls == 1:
                return False
            key = self._key(self._calls)
            return json.loads(client.blocking_key_value_get(key, _PATIENCE_MILLISECONDS))
        decided, self._announced = self._announced, mine
        client.key_value_set(self._key(self._calls + 1), json.dumps(mine))
        if self._calls > _KEPT_DECISIONS:
            client.key_value_delete(self._key(self._calls - _KEPT_DECISIONS))
        return decided

    def _key(self, call: int) -> str:
        return f"oner_jax/{self._name}/{call}"


def own_rows(rows: int) -> slice:
    """Which of so many rows of work are this process's: stretches of nearly equal length."""
    process, processes = jax.process_index(), jax.process_count()
    return slice(process * rows // processes, (process + 1) * rows // processes)


def gather_rows(own: np.ndarray, rows: int) -> np.ndarray:
    """All rows on every process, from the `own_rows(rows)` of each."""
    if jax.process_count() == 1:
        return own
    most = -(-rows // jax.process_count())
    padded = np.zeros((most, *own.shape[1:]), own.dtype)
    padded[: len(own)] = own
    everything = multihost_utils.process_allgather(padded)
    ends = [number * rows // jax.process_count() for number in range(jax.process_count() + 1)]
    return np.concatenate(
        [
            held[: last - first]
            for held, (first, last) in zip(everything, pairwise(ends), strict=True)
        ]
    )


def _find_place() -> tuple[Place, Sequence[int] | None]:
    """This process's place, by flags or by what JAX detects; and which local devices are its own,
    should it share its host with other processes (None: all)."""
    given = {
        "--coordinator_address": COORDINATOR_ADDRESS.value,
        "--num_processes": NUM_PROCESSES.value,
        "--process_id": PROCESS_ID.value,
    }
    missing = [name for name, value in given.items() if value is None]
    if NUM_PROCESSES.value == 1:
        return Place("localhost:0", 1, 0), None
    if not missing:
        return Place(*given.values()), None
    if len(missing) < len(given):
        raise InputError(f"{' and '.join(missing)} is missing: give all three, or none")
    # JAX has no public way to ask without starting, and starting cannot say who is missing.
    from jax._src.clusters import ClusterEnv

    try:
        address, count, number, local_devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(STARTUP_TIMEOUT_SECONDS.value)
        )
    except Exception as error:  # whatever the cluster's own interfaces raise
        raise ClusterError(
            f"this looks like a cluster, but JAX cannot read it ({' '.join(str(error).split())}): "
            "give --coordinator_address, --num_processes and --process_id, or --num_processes=1"
        ) from error
    if address is None or count is None or number is None:
        return Place("localhost:0", 1, 0), None
    # A job scheduler that has given this process one GPU has numbered it 0 there.
    if "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        local_devices = None
    return Place(address, count, number), local_devices


def _client() -> Any:
    """The client of JAX's coordination service; None for a process alone."""
    from jax._src import distributed

    return distributed.global_state.client
