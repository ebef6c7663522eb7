"""Who is lost, and why a run ends, over real connections between real processes."""

import socket
import subprocess
import sys

import pytest

# Process 0 and 1 of three; what each does comes as its argument. Process 2 sleeps.
PROCESS = """
import socket, sys, time
from oner_jax.parallel.lifelines import Lifelines
from oner_jax.parallel.rendezvous import Place, meet

number, port, deed = int(sys.argv[1]), sys.argv[2], sys.argv[3]
meeting = meet(Place(f"127.0.0.1:{port}", 3, number), {}, timeout_seconds=60)
lines = Lifelines(number, meeting.hosts, meeting.connections, 10)
lines.before_exit(lambda: print("stacks", file=sys.stderr))
print("met", flush=True)
sys.stdin.readline()
exec(deed)
time.sleep(20)
"""


def end_of(deeds: list[str]) -> list[tuple[int, str]]:
    """Exit code and last words of three processes that meet and then do this."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), str(port), deed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, deed in enumerate(deeds)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


SUICIDE = "import os; os.kill(os.getpid(), 9)"
LATER = "time.sleep(1); "


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_is_named_by_all_others(victim):
    deeds = [LATER, LATER, LATER]
    deeds[victim] = SUICIDE
    ends = end_of(deeds)
    host = socket.gethostname()
    for number, (code, said) in enumerate(ends):
        if number == victim:
            assert code == -9
        else:
            assert code == 1
            assert said.startswith(f"stopped, because process {victim} ({host}) is lost: ")
            assert len(said.splitlines()) == 1


def test_a_cause_reaches_all_and_stacks_are_made_where_they_are_asked_for():
    ends = end_of([LATER, "lines.end_all('it hangs', 3, stacks=True)", LATER])
    assert [code for code, _ in ends] == [3, 3, 3]
    cause = f"stopped, because process 1 ({socket.gethostname()}) failed: it hangs\nstacks\n"
    assert [said for _, said in ends] == [cause, "", cause]


def test_processes_that_are_done_leave_in_any_order():
    ends = end_of(
        [
            "lines.close(); sys.exit()",
            "lines.close(); sys.exit()",
            "time.sleep(2); lines.close(); sys.exit()",
        ]
    )
    assert ends == [(0, "")] * 3
