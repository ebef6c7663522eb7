"""Run a program as several processes on this machine, as if they were hosts of a cluster.

    python launch/local.py --processes=2 --devices_per_process=4 -- \\
        python -m oner_jax.train --config=configs/oner.py:tiny --workdir=DIR

Every process gets `--coordinator_address`, `--num_processes` and `--process_id`, and its lines are
printed behind its number. When one fails, the others are ended; the exit code is that of the first
to fail. `--devices_per_process` gives each that many fake devices on the CPU; without it the
processes see what the machine has.

`--restarts=N` starts the program again, up to N times, when it ends with exit code 75 (stopped with
a checkpoint) and this launcher was not asked to stop; with `--restart_lost` also when a process was
killed. SIGTERM, SIGHUP and Ctrl-C are passed on to all processes, which save before they end.
`--dry-run` prints the commands of all processes and runs none.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

POLL_SECONDS = 0.05
STDOUT, STDERR = 1, 2
BAD_INPUT = 2
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
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes is at least 1")
    if options.dry_run:
        environment = [f"{name}={value}" for name, value in _environment(options).items()]
        for command in _commands(options):
            print(shlex.join(["env", *environment, *command] if environment else command))
        return 0
    program = options.command[0]
    if shutil.which(program) is None:
        print(f"error: there is no program {program!r} to run behind --", file=sys.stderr)
        return BAD_INPUT
    asked: list[int] = []  # signals, in order
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: asked.append(number))
    for restarts_left in reversed(range(options.restarts + 1)):
        exit_code = _run_once(options, asked)
        again = exit_code == PREEMPTED or (options.restart_lost and exit_code > KILLED)
        if asked or not again or not restarts_left:
            break
        print(f"exit code {exit_code}: starting again, {restarts_left} left", file=sys.stderr)
    return exit_code


def _run_once(options: argparse.Namespace, asked: list[int]) -> int:
    """Start all, pass on the signals in `asked`, and wait until all have ended; the exit code."""
    processes, printers = _start(options)
    try:
        return _wait(processes, asked)
    finally:
        _end(processes, options.grace_seconds)
        for printer in printers:
            printer.join()


def _start(
    options: argparse.Namespace,
) -> tuple[list[subprocess.Popen[bytes]], list[threading.Thread]]:
    processes, printers = [], []
    for number, command in enumerate(_commands(options)):
        process = subprocess.Popen(
            command,
            env=os.environ | _environment(options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C comes to the launcher alone, which passes it on: once, not twice.
            process_group=0,
        )
        processes.append(process)
        for source, descriptor in ((process.stdout, STDOUT), (process.stderr, STDERR)):
            arguments = (source, descriptor, f"[{number}] ".encode())
            printer = threading.Thread(target=_forward, args=arguments)
            printer.start()
            printers.append(printer)
    return processes, printers


def _commands(options: argparse.Namespace) -> list[list[str]]:
    """Of every process."""
    address = f"--coordinator_address=127.0.0.1:{_free_port()}"
    count = f"--num_processes={options.processes}"
    return [
        [*options.command, address, count, f"--process_id={number}"]
        for number in range(options.processes)
    ]


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """What differs from this process's."""
    if not options.devices_per_process:
        return {}
    flag = f"--xla_force_host_platform_device_count={options.devices_per_process}"
    return {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        "JAX_PLATFORMS": "cpu",
    }


def _forward(source: IO[bytes], descriptor: int, prefix: bytes) -> None:
    """Copy lines until the source ends, also where nothing takes them any more, as behind `| head`.

    A program whose lines are not read stands still.
    """
    for line in source:
        with contextlib.suppress(OSError):
            os.write(descriptor, prefix + line)


def _wait(processes: list[subprocess.Popen[bytes]], asked: list[int]) -> int:
    """Until all are done or one fails; the exit code of that one, as a shell would give it."""
    passed_on = 0
    while True:
        for number in asked[passed_on:]:
            _signal(processes, number)
            passed_on += 1
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
