"""Run a program as several processes on this machine, as if they were hosts of a cluster.

    python launch/local.py --processes=2 --devices_per_process=4 -- \\
        python -m oner_jax.train --config=configs/oner.py:tiny --workdir=DIR

Every process gets `--coordinator_address`, `--num_processes` and `--process_id`, and its lines are
printed behind its number. When one fails, the others are ended; the exit code is that of the first
to fail. `--devices_per_process` gives each that many fake devices on the CPU; without it the
processes see what the machine has.

`--restarts=N` starts the program again, up to N times, when it ends with exit code 75 (stopped with
a checkpoint) and this launcher was not asked to stop; with `--restart_lost` also when a process was
killed. SIGTERM and Ctrl-C are passed on to all processes, which save before they end.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

POLL_SECONDS = 0.05
PREEMPTED = 75
KILLED = 128  # and above: by a signal, as a shell gives it


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices_per_process", type=int, default=0)
    parser.add_argument(
        "--grace_seconds",
        type=float,
        default=5.0,
        help="time for the others to end by themselves, and then to end when told to",
    )
    parser.add_argument("command", nargs="+", help="after --: the program and its arguments")
    parser.add_argument("--restarts", type=int, default=0, help="how often to start again on 75")
    parser.add_argument(
        "--restart_lost", action="store_true", help="also start again when a process was killed"
    )
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes is at least 1")
    processes: list[subprocess.Popen[bytes]] = []
    asked_to_stop = False

    def pass_on(number: int, _: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        _signal(processes, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for restarts_left in reversed(range(options.restarts + 1)):
        exit_code = _run_once(options, processes)
        again = exit_code == PREEMPTED or (options.restart_lost and exit_code > KILLED)
        if asked_to_stop or not again or not restarts_left:
            break
        print(f"exit code {exit_code}: starting again, {restarts_left} left", file=sys.stderr)
    return exit_code


def _run_once(options: argparse.Namespace, processes: list[subprocess.Popen[bytes]]) -> int:
    """Start all, filling `processes`, and wait until all have ended; the exit code."""
    processes[:], printers = _start(options)
    try:
        return _wait(processes)
    finally:
        _end(processes, options.grace_seconds)
        for printer in printers:
            printer.join()


def _start(
    options: argparse.Namespace,
) -> tuple[list[subprocess.Popen[bytes]], list[threading.Thread]]:
    environment = dict(os.environ)
    if options.devices_per_process:
        flag = f"--xla_force_host_platform_device_count={options.devices_per_process}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}"
        environment["JAX_PLATFORMS"] = "cpu"
    address = f"127.0.0.1:{_free_port()}"
    processes, printers = [], []
    for number in range(options.processes):
        place = [
            f"--coordinator_address={address}",
            f"--num_processes={options.processes}",
            f"--process_id={number}",
        ]
        process = subprocess.Popen(
            [*options.command, *place],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C comes to the launcher alone, which passes it on: once, not twice.
            process_group=0,
        )
        processes.append(process)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            printer = threading.Thread(target=_forward, args=(source, target, f"[{number}] "))
            printer.start()
            printers.append(printer)
    return processes, printers


def _forward(source: IO[bytes], target: IO[str], prefix: str) -> None:
    for line in source:
        target.write(prefix + line.decode(errors="replace"))
        target.flush()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Until all are done or one fails; the exit code of that one, as a shell would give it."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            return failed if failed > 0 else 128 - failed
        if None not in codes:
            return 0
        time.sleep(POLL_SECONDS)


def _signal(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def _end(processes: list[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    for number in (0, signal.SIGTERM, signal.SIGKILL):  # the first only asks
        running = [process for process in processes if process.poll() is None]
        _signal(running, number)
        deadline = time.monotonic() + grace_seconds
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
