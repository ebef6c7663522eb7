"""Runs of a sweep as jobs of a launcher, one that waits for their end and one that only submits."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from launch.jobs import job_name
from launch.runs import Run
from launch.sweep import run_all
from oner_jax.claims.sweep import Trial

ROOT = Path(__file__).parents[2]

# Both note the name and the command that they are given, which stands behind `--`.
NOTE = """
import json, subprocess, sys
name, separator, *command = sys.argv[1:]
assert separator == "--" and command[0] == "python"
command[0] = sys.executable
open({notes!r}, "a").write(json.dumps([name, command]) + "\\n")
"""
WAITS = NOTE + "sys.exit(subprocess.run(command).returncode)"


def launcher(folder: Path, program: str) -> str:
    program = program.format(notes=str(folder / "notes"))
    return shlex.join([sys.executable, "-c", program]) + " {name}"


def noted(folder: Path) -> list[tuple[str, list[str]]]:
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


def run(folder: Path, name: str, *programs: str) -> Run:
    commands = tuple(("tests.launch.program", program, str(folder)) for program in programs)
    return Run(Trial(name, "recipe"), 0, folder / name / "seed-0", commands)


def writes(word: str) -> str:
    return f"import sys; open(sys.argv[1] + '/words', 'a').write('{word} ')"


def test_a_launcher_that_waits_runs_all_commands_of_a_run(tmp_path):
    runs = [run(tmp_path, "k=0.1", writes("a1"), writes("a2")), run(tmp_path, "b", writes("b"))]
    waits = launcher(tmp_path, WAITS)
    assert run_all(runs, 1, launcher=waits) == {}
    assert (tmp_path / "words").read_text() == "a1 a2 b "
    assert [name for name, _ in noted(tmp_path)] == [job_name("k=0.1-seed-0"), "b-seed-0"]
    # Finished is finished, whoever ran it.
    assert run_all(runs, 1, ()) == {}
    assert len(noted(tmp_path)) == 2


def test_a_failing_job_is_named_and_launched_again(tmp_path, capsys):
    broken = run(tmp_path, "broken", "print('the reason'); raise SystemExit(3)", writes("never"))
    waits = launcher(tmp_path, WAITS)
    for times in (1, 2):
        assert list(run_all([broken], 1, launcher=waits)) == ["broken seed 0"]
        assert len(noted(tmp_path)) == times
    assert "exit code 3" in capsys.readouterr().out
    assert "the reason" in broken.beside(".log").read_text()


def test_what_only_submits_is_collected_later(tmp_path, capsys):
    runs = [run(tmp_path, "a", writes("a")), run(tmp_path, "b", "raise SystemExit(1)")]
    submits = launcher(tmp_path, NOTE)
    assert run_all(runs, 1, launcher=submits) == {}
    assert run_all(runs, 1, launcher=submits) == {}
    assert "launched before, not finished" in capsys.readouterr().out
    queued = noted(tmp_path)
    assert len(queued) == 2, "nothing is submitted twice"
    for _, command in queued:
        subprocess.run(command, cwd=ROOT)
    assert runs[0].seconds() is not None
    # One has failed and is submitted anew; the other is finished.
    run_all(runs, 1, launcher=submits)
    assert [name for name, _ in noted(tmp_path)] == ["a-seed-0", "b-seed-0", "b-seed-0"]


def test_a_job_that_failed_is_brought_back_by_its_launcher(tmp_path):
    """As where a host was lost: the same command again, from the cluster's own queue."""
    fails_once = (
        "import sys; from pathlib import Path; path = Path(sys.argv[1]) / 'tried'\n"
        "tried = path.exists(); path.touch(); sys.exit(not tried)"
    )
    lost = run(tmp_path, "a", fails_once)
    run_all([lost], 1, launcher=launcher(tmp_path, NOTE))
    ((_, command),) = noted(tmp_path)
    assert [subprocess.run(command, cwd=ROOT).returncode for _ in range(2)] == [1, 0]
    assert lost.seconds() is not None


def test_a_job_that_nobody_launched_is_one_line(tmp_path):
    command = [sys.executable, "-m", "launch.jobs", str(tmp_path / "seed-0")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'seed-0'}.job.json is missing")


def test_a_job_on_several_hosts_passes_their_flags_on_and_75_keeps_it_launched(tmp_path):
    program = (
        f"import sys; open({str(tmp_path / 'words')!r}, 'w').write(sys.argv[-1]); sys.exit(75)"
    )
    stopped = run(tmp_path, "a", program)
    run_all([stopped], 1, launcher=launcher(tmp_path, NOTE))
    ((_, command),) = noted(tmp_path)
    assert subprocess.run([*command, "--process_id=1"], cwd=ROOT).returncode == 75
    assert (tmp_path / "words").read_text() == "--process_id=1"
    assert stopped.beside(".job.json").exists()
    assert stopped.seconds() is None


def test_names_of_jobs_are_different_and_such_as_clusters_take():
    trials = ["bias=-10.0", "bias=10.0", "Bias=10.0", "10", "a" * 60, "a" * 61, "plain", "é", "-"]
    names = [job_name(f"{trial}-seed-0") for trial in trials]
    assert len(set(names)) == len(trials)
    assert names[6] == "plain-seed-0"
    for name in names:
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(f"{name}-slice-99-999-xxxxx") <= 63
