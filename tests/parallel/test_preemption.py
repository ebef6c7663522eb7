"""Signals that ask a process to stop."""

import signal
import subprocess
import sys

import pytest

WORK = """
import sys, time
from oner_jax.parallel.preemption import StopRequest
with StopRequest() as stop:
    print("up", flush=True)
    while not stop.here():
        time.sleep(0.05)
    print("stopped", flush=True)
    if "deaf" in sys.argv:
        import ctypes
        ctypes.CDLL(None).sleep(1000)
print("done")
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_asks(number):
    process = start()
    process.send_signal(number)
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "stopped\ndone\n"
    assert ("Ctrl-C again" in complaint) == (number == signal.SIGINT)


def test_a_second_interrupt_ends_at_once_whatever_the_main_thread_does():
    process = start("deaf")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_under_nohup_a_lost_terminal_does_not_stop_the_run():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "stopped\ndone\n"
