"""Processes meet before JAX starts: threads in the place of hosts, over real sockets."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from oner_jax.errors import ClusterError, InputError
from oner_jax.parallel.rendezvous import Place, meet


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def gather(ids, count, *, timeout_seconds=20.0, facts=lambda number: {"JAX": "1"}):
    """What `meet` gives or raises for each of `ids`, all started at once."""
    address = f"127.0.0.1:{free_port()}"

    def come(number):
        try:
            place = Place(address, count, number)
            meeting = meet(place, facts(number), timeout_seconds=timeout_seconds)
            for connection in meeting.connections.values():
                connection.close()
            return meeting.hosts
        except ClusterError as error:
            return str(error)

    with ThreadPoolExecutor(len(ids)) as pool:
        return list(pool.map(come, ids))


def test_all_learn_the_hosts_of_all():
    assert gather([2, 0, 1], 3) == [[socket.gethostname()] * 3] * 3


def test_everyone_who_came_is_told_who_is_missing():
    answers = gather([0, 3], 4, timeout_seconds=1.0)
    assert answers[0] == answers[1]
    host = socket.gethostname()
    assert "2 of 4 processes did not come within 1 s: missing processes 1, 2" in answers[0]
    assert f"came 0 ({host}), 3 ({host})" in answers[0]


def test_without_process_0_the_others_name_its_address():
    (answer,) = gather([1], 2, timeout_seconds=0.5)
    assert "process 0 did not answer at 127.0.0.1:" in answer


def test_an_id_given_twice_is_named():
    answers = gather([0, 1, 1], 3, timeout_seconds=5.0)
    assert any("process id 1 was given twice" in answer for answer in answers)


def test_processes_that_differ_are_refused():
    answers = gather([0, 1], 2, facts=lambda number: {"JAX": str(number)})
    assert answers[0] == answers[1]
    assert "has JAX 1, process 0" in answers[0]


def test_a_stranger_at_the_port_is_ignored():
    port = free_port()
    done = threading.Event()

    def knock():
        while not done.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    connection.recv(100)
                return
            except OSError:
                continue

    stranger = threading.Thread(target=knock)
    stranger.start()
    with ThreadPoolExecutor(2) as pool:
        places = [Place(f"127.0.0.1:{port}", 2, number) for number in range(2)]
        first = pool.submit(meet, places[0], {}, timeout_seconds=20.0)
        stranger.join(10)
        second = pool.submit(meet, places[1], {}, timeout_seconds=20.0)
        assert first.result().hosts == second.result().hosts == [socket.gethostname()] * 2
    done.set()


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        place = Place(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(InputError, match="choose another port"):
            meet(place, {}, timeout_seconds=1.0)


@pytest.mark.parametrize(
    ("address", "count", "number", "named"),
    [
        ("host", 2, 0, "host:port"),
        (":80", 2, 0, "host:port"),
        ("host:1", 2, 2, "ids run from 0 to 1"),
        ("host:99999", 2, 0, "ports run to 65535"),
        (f"{'h' * 64}.net:80", 2, 0, "host:port"),
        ("a..b:80", 2, 0, "host:port"),
    ],
)
def test_a_place_that_cannot_be_is_refused(address, count, number, named):
    with pytest.raises(InputError, match=named):
        Place(address, count, number)
