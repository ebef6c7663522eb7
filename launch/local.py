"""Run a program as several processes on this machine, as if they were hosts of a cluster.

    python launch/local.py --processes=2 --devices_per_process=4 -- \\
        python -m oner_jax.train --config=configs/oner.py:tiny --workdir=DIR

Every process gets `--coordinator_address`, `--num_processes` and `--process_id`, and its lines are
printed behind its number. When one fails, the others are ended; the exit code is that of the first
to fail. `--devices_per_process` gives each that many fake devices on the CPU; without it the
processes see what the machine has.
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
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes is at least 1")
    processes, printers = _start(options)
    # Passed on, so that a training run saves before it ends.
    signal.signal(signal.SIGTERM, lambda *_: _signal(processes, signal.SIGTERM))
    try:
        exit_code = _wait(processes)
    finally:
        _end(processes, options.grace_seconds)
        for printer in printers:
            printer.join()
    return exit_code


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
