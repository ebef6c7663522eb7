"""Before JAX's own start: have all processes come, and do they mean the same run?

JAX ends a process by abort when another one does not come, and does not say which. So the processes
meet first at process 0, over plain sockets on the port that JAX will use: each says who it is, and
process 0 answers all of them at once, when the last has come or the time is up.
"""

import contextlib
import dataclasses
import json
import select
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from oner_jax.errors import ClusterError, InputError

_RETRY_SECONDS = 0.2
_GREETING_SECONDS = 5.0
_LISTED = 32
_LAST_PORT = 65535


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place among those of a run."""

    coordinator_address: str
    num_processes: int
    process_id: int

    def __post_init__(self) -> None:
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not port.isdecimal() or not _is_host(host):
            raise InputError(
                f"coordinator address {self.coordinator_address!r}: write host:port, for example "
                "10.0.0.1:8476"
            )
        if int(port) > _LAST_PORT:
            raise InputError(
                f"coordinator address {self.coordinator_address!r}: ports run to {_LAST_PORT}"
            )
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"process id {self.process_id} of {self.num_processes} processes: ids run from 0 "
                f"to {self.num_processes - 1}"
            )

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The coordinator's address as sockets take it."""
        host, _, port = self.coordinator_address.rpartition(":")
        return host.strip("[]"), int(port)


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Host names by process id, and the connections over which the processes met.

    Process 0 has one to each of the others, by their ids; they have one to it. They are the
    caller's to close.
    """

    hosts: list[str]
    connections: dict[int, socket.socket]


def _is_host(name: str) -> bool:
    """Return whether resolvers take `name`: parts between dots have 1 to 63 characters."""
    try:
        name.strip("[]").encode("idna")
    except UnicodeError:
        return False
    return True


def meet(place: Place, facts: Mapping[str, str], *, timeout_seconds: float) -> Meeting:
    """Wait for all processes.

    `facts` (the version of JAX, say) have to be the same everywhere. Raises ClusterError, on every
    process that came, if others do not come in time, if two have the same id or if their facts
    differ; and InputError where process 0 cannot listen at its address.
    """
    greeting = {
        "process_id": place.process_id,
        "host": socket.gethostname(),
        "facts": {"num_processes": str(place.num_processes), **facts},
    }
    if place.process_id == 0:
        return _receive_all(place, greeting, timeout_seconds)
    return _introduce(place, greeting, timeout_seconds)


def _receive_all(place: Place, own: dict[str, Any], timeout_seconds: float) -> Meeting:
    """Process 0: collect greetings until all have come, and answer them."""
    deadline = time.monotonic() + timeout_seconds
    greetings = {0: own}
    connections: dict[int, socket.socket] = {}
    problem: str | None = None
    with _listen(place) as server:
        while len(greetings) < place.num_processes and problem is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                problem = _describe_missing(greetings, place.num_processes, timeout_seconds)
                break
            connection.settimeout(_GREETING_SECONDS)
            greeting = _read(connection)
            if greeting is None or not {"process_id", "host", "facts"} <= greeting.keys():
                connection.close()  # not one of ours
                continue
            number = greeting["process_id"]
            if number in connections and _is_open(connections[number]):
                hosts = f"{greetings[number]['host']} and {greeting['host']}"
                problem = f"process id {number} was given twice, on {hosts}: give each its own"
                connections[-1] = connection
            else:
                greetings[number], connections[number] = greeting, connection
                problem = _describe_difference(own, greeting)
        if problem is not None:
            for connection in connections.values():
                _send(connection, {"error": problem})
                connection.close()
            raise ClusterError(problem)
    names = [str(greetings[number]["host"]) for number in range(place.num_processes)]
    for connection in connections.values():
        _send(connection, {"hosts": names})
    return Meeting(names, connections)


def _introduce(place: Place, greeting: dict[str, Any], timeout_seconds: float) -> Meeting:
    """Any other process: greet process 0 and wait for its answer."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(place.host_and_port, timeout=_GREETING_SECONDS)
        except OSError:
            time.sleep(_RETRY_SECONDS)
            continue
        _send(connection, greeting)
        # Process 0 may have come last; from here on it is its clock that counts.
        connection.settimeout(timeout_seconds + _GREETING_SECONDS)
        answer = _read(connection)
        if answer is not None and "hosts" in answer:
            return Meeting(answer["hosts"], {0: connection})
        connection.close()
        if answer is not None:
            raise ClusterError(answer["error"])
        time.sleep(_RETRY_SECONDS)
    raise ClusterError(
        f"process 0 did not answer at {place.coordinator_address} within "
        f"{timeout_seconds:.0f} s: start it there, and open the port to process {place.process_id} "
        f"({greeting['host']})"
    )


def _listen(place: Place) -> socket.socket:
    _, port = place.host_and_port
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} of {socket.gethostname()} ({error.strerror}): "
            "choose another port in --coordinator_address"
        ) from None


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """One line of JSON; a process that has gone away is noticed elsewhere."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """One line of JSON; None where the other side closes, is silent or says something else."""
    try:
        with connection.makefile("rb") as file:
            message = json.loads(file.readline(1 << 20))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side still holds this connection, on which it has nothing more to say."""
    return not select.select([connection], [], [], 0)[0]


def _describe_missing(
    greetings: Mapping[int, Mapping[str, Any]], num_processes: int, timeout_seconds: float
) -> str:
    missing = sorted(set(range(num_processes)) - greetings.keys())
    came = [f"{number} ({greetings[number]['host']})" for number in sorted(greetings)]
    noun = "process" if len(missing) == 1 else "processes"
    return (
        f"{len(missing)} of {num_processes} processes did not come within {timeout_seconds:.0f} s: "
        f"missing {noun} {listed(missing)}; came {listed(came)}. Start the missing, or allow "
        "more time with --startup_timeout_seconds"
    )


def _describe_difference(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    here, there = own["facts"], other["facts"]
    differing = [name for name in here | there if here.get(name) != there.get(name)]
    if not differing:
        return None
    theirs, ours = (
        listed(f"{name} {facts.get(name, 'unknown')}" for name in differing)
        for facts in (there, here)
    )
    return (
        f"process {other['process_id']} ({other['host']}) has {theirs}, process 0 ({own['host']}) "
        f"has {ours}: start all processes alike"
    )


def listed(items: Iterable[object]) -> str:
    """`a, b, c`, cut short where there are many."""
    texts = [str(item) for item in items]
    rest = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + rest
