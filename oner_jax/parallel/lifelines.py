"""Connections that stay open between process 0 and each of the others while a run lasts.

When a process dies its connection breaks at once, and when a machine or the network goes silent
TCP's keep-alive breaks it: so every loss has a name. JAX's own service knows the lost process by
number alone, after its time-out, and aborts the rest; when process 0 is lost, it does not say even
that. The same connections carry why a run ends, from the process that fails to all the others.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oner_jax.command_line import streams
from oner_jax.command_line.program import EXIT_FAILED

_POLL_SECONDS = 0.5
_RECEIVE_BYTES = 1 << 16
_KEEPALIVE_PROBES = 3
# Process 0 tells the others why it ends, and stays so long for them to have read it.
_FAREWELL_SECONDS = 2.0


class Lifelines:
    """Ends this process when another one fails or is lost, with one line that names it.

    `connections` by process id: process 0 has one to each of the others, they have one to it. A
    connection that is silent for `timeout_seconds` counts as broken.
    """

    def __init__(
        self,
        process_id: int,
        hosts: Sequence[str],
        connections: Mapping[int, socket.socket],
        timeout_seconds: float,
    ):
        self._process_id, self._hosts = process_id, hosts
        self._connections = dict(connections)
        self._received = dict.fromkeys(connections, b"")
        self._before_exit: Callable[[], None] | None = None
        self._ending = threading.Lock()
        self._closed = threading.Event()
        for connection in connections.values():
            _keep_alive(connection, timeout_seconds)
        self._thread = threading.Thread(target=self._listen, name="lifelines", daemon=True)
        self._thread.start()

    def before_exit(self, action: Callable[[], None] | None) -> None:
        """What to do on this process when another asks all for their stacks before they end."""
        self._before_exit = action

    def end_all(self, cause: str, exit_code: int, *, stacks: bool = False) -> None:
        """Tell the others why this process fails, and end it. Does not return.

        With `stacks` the others do what they were given as `before_exit` first.
        """
        name = f"process {self._process_id} ({self._hosts[self._process_id]})"
        self._pass_on(
            {"cause": f"{name} failed: {cause}", "exit_code": exit_code, "stacks": stacks}
        )
        self._exit(exit_code)

    def close(self) -> None:
        """This process is done, which is no loss to the others."""
        self._closed.set()
        self._thread.join()
        self._send(self._connections, {"done": True})
        for connection in self._connections.values():
            connection.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, number)
            while self._connections and not self._closed.is_set():
                for key, _ in selector.select(_POLL_SECONDS):
                    self._read(key.data)
                    if key.data not in self._connections:
                        selector.unregister(key.fileobj)

    def _read(self, number: int) -> None:
        try:
            received = self._connections[number].recv(_RECEIVE_BYTES)
        except OSError:
            received = b""
        if not received:
            name = f"process {number} ({self._hosts[number]})"
            cause = f"{name} is lost: it was killed, or its machine or the network failed"
            self._end({"cause": cause, "exit_code": EXIT_FAILED, "stacks": False})
        *lines, self._received[number] = (self._received[number] + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "done" in message:
                del self._connections[number]
            else:
                self._end(message, informed=number)

    def _end(self, message: dict[str, Any], informed: int | None = None) -> None:
        """Another process is the cause: pass the word on, say it, and end this process."""
        self._pass_on(message, informed)
        print(f"stopped, because {message['cause']}", file=sys.stderr, flush=True)
        if message["stacks"] and self._before_exit is not None:
            self._before_exit()
        self._exit(message["exit_code"])

    def _pass_on(self, message: dict[str, Any], informed: int | None = None) -> None:
        self._ending.acquire()  # never released: who comes second waits for the end
        others = {n: line for n, line in self._connections.items() if n != informed}
        self._send(others, message)

    def _send(self, connections: Mapping[int, socket.socket], message: dict[str, Any]) -> None:
        for connection in connections.values():
            with contextlib.suppress(OSError):  # lost as well, or done
                connection.sendall(json.dumps(message).encode() + b"\n")

    def _exit(self, exit_code: int) -> None:
        """Without JAX's farewell, for which all processes would have to be well."""
        if self._process_id == 0:
            time.sleep(_FAREWELL_SECONDS)
        streams.flush()
        os._exit(exit_code)


def _keep_alive(connection: socket.socket, timeout_seconds: float) -> None:
    """Have the system break `connection` when the other side is silent for so long."""
    connection.settimeout(timeout_seconds)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    interval = max(1, int(timeout_seconds / (2 * _KEEPALIVE_PROBES)))
    for name, value in (
        ("TCP_KEEPIDLE", max(1, int(timeout_seconds / 2))),
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
