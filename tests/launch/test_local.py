"""Several processes on this machine: their lines, their flags, and how they end."""

import subprocess
import sys
from pathlib import Path

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"

# What the launcher appends arrives in sys.argv.
NUMBER = "import sys, time; number = int(sys.argv[-1].removeprefix('--process_id='))\n"


def run(code: str, processes: int = 3):
    own = [f"--processes={processes}", "--grace_seconds=0.5"]
    command = [sys.executable, str(LOCAL), *own, "--", sys.executable, "-c"]
    return subprocess.run([*command, NUMBER + code], capture_output=True, text=True, timeout=60)


def test_every_process_knows_its_place_and_is_heard():
    result = run("print(sys.argv[1:]); print('aside', file=sys.stderr)")
    assert result.returncode == 0
    lines = sorted(result.stdout.splitlines())
    assert len(lines) == 3
    assert len({line.split("'")[1] for line in lines}) == 1, "one address for all"
    for number, line in enumerate(lines):
        assert line.startswith(f"[{number}] ['--coordinator_address=127.0.0.1:")
        assert line.endswith(f"'--num_processes=3', '--process_id={number}']")
    assert sorted(result.stderr.splitlines()) == [f"[{n}] aside" for n in range(3)]


def test_the_first_failure_ends_the_others_and_is_the_exit_code():
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    result = run(f"{deaf}time.sleep(0.2) if number == 1 else time.sleep(600)\nsys.exit(2)", 2)
    assert result.returncode == 2


def test_devices_are_counted_in_the_environment():
    code = "import os; print(os.environ['XLA_FLAGS'].split()[-1], os.environ['JAX_PLATFORMS'])"
    own = ["--processes=1", "--devices_per_process=4", "--", sys.executable, "-c", code]
    result = subprocess.run([sys.executable, LOCAL, *own], capture_output=True, text=True)
    assert result.stdout == "[0] --xla_force_host_platform_device_count=4 cpu\n"
