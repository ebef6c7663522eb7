"""Several processes on this machine: their lines, their flags, and how they end."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"

# What the launcher appends arrives in sys.argv.
NUMBER = "import sys, time; number = int(sys.argv[-1].removeprefix('--process_id='))\n"


def run(code: str, processes: int = 3, *options: str):
    own = [f"--processes={processes}", "--grace_seconds=0.5", *options]
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


# Ends as asked a number of times, counted in a file.
ATTEMPT = """
from pathlib import Path
path = Path({path!r} + str(number))
attempts = len(path.read_text()) if path.exists() else 0
path.write_text("x" * (attempts + 1))
"""


def test_a_preempted_program_is_started_again_so_often_and_no_more(tmp_path):
    path = str(tmp_path / "attempts")
    code = ATTEMPT.format(path=path) + "sys.exit(75 if attempts < 2 else 0)"
    assert run(code, 2, "--restarts=1").returncode == 75
    result = run(code, 2, "--restarts=5")
    assert result.returncode == 0, result.stderr
    assert Path(path + "0").read_text() == "xxx"


def test_a_killed_process_is_started_again_where_that_is_asked_for(tmp_path):
    code = ATTEMPT.format(path=str(tmp_path / "attempts"))
    code += "import os; os.kill(os.getpid(), 9) if attempts == 0 and number == 1 else None"
    result = run(code, 2, "--restarts=3", "--restart_lost")
    assert result.returncode == 0, result.stderr
    assert "exit code 137: starting again, 3 left" in result.stderr
    assert run(code + "\nsys.exit(2)", 1, "--restarts=3", "--restart_lost").returncode == 2


def test_a_launcher_that_is_asked_to_stop_does_not_start_again(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    code += "print('up', flush=True); time.sleep(60)"
    own = ["--processes=1", "--restarts=3", "--", sys.executable, "-c", code]
    process = subprocess.Popen([sys.executable, LOCAL, *own], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "[0] up\n"
    process.terminate()
    assert process.wait(timeout=60) == 75


def test_a_launcher_that_is_asked_while_it_starts_the_processes_asks_them_all():
    """The first process asks it, long before the last one is there."""
    code = 'case "$3" in *=0) kill -TERM $PPID;; esac; exec sleep 60'
    own = ["--processes=20", "--restarts=3", "--", "sh", "-c", code, "sh"]
    result = subprocess.run([sys.executable, LOCAL, *own], capture_output=True, timeout=30)
    assert result.returncode == 128 + 15


def test_a_dry_run_prints_what_runs():
    code = "import os, sys; print(sys.argv[1:], os.environ['XLA_FLAGS'].split()[-1])"
    own = ["--processes=2", "--devices_per_process=3", "--", sys.executable, "-c", code]
    printed, ran = (
        subprocess.run([sys.executable, LOCAL, *options, *own], capture_output=True, text=True)
        for options in (["--dry-run"], [])
    )
    assert printed.returncode == ran.returncode == 0
    lines = [
        subprocess.run(shlex.split(line), capture_output=True, text=True).stdout
        for line in printed.stdout.splitlines()
    ]
    # One address for all, another one each time.
    heard = [re.sub(r":\d+", "", line[len("[0] ") :]) for line in sorted(ran.stdout.splitlines())]
    assert [re.sub(r":\d+", "", line.strip()) for line in lines] == heard


def test_a_misspelt_command_is_one_line():
    command = [sys.executable, str(LOCAL), "--processes=2", "--", "pyhton", "-m", "oner_jax.train"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == "error: there is no program 'pyhton' to run behind --\n"


def test_behind_head_the_processes_go_on_to_their_end(tmp_path):
    """More lines than a pipe holds, of which one is read."""
    code = (
        "from pathlib import Path\n"
        "for line in range(20000): print('x' * 50)\n"
        f"Path({str(tmp_path)!r}, str(number)).touch()"
    )
    own = f"{sys.executable} {LOCAL} --processes=2 -- {sys.executable} -c"
    shell = f"set -o pipefail; {own} {shlex.quote(NUMBER + code)} | head -n 1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_lost_terminal_is_passed_on():
    code = (
        "import signal; signal.signal(signal.SIGHUP, lambda *_: sys.exit(75))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    own = ["--processes=1", "--grace_seconds=5", "--", sys.executable, "-c", NUMBER + code]
    process = subprocess.Popen([sys.executable, LOCAL, *own], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"[0] up\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 75
