"""launch/skypilot.sh and launch/skypilot.yaml: what SkyPilot gets, and what nodes make of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TASK = ROOT / "launch" / "skypilot.yaml"
COMMAND = [
    *("python", "-m", "oner_jax.train", "--config=configs/oner.py:tiny", "--workdir=gs://b/run"),
    *('--config.data.train=a b\'s "c" $HOME `id` \\ * #;&|', "--config.note="),
]
RECORDS = f"""#!{sys.executable} -IS
import json, os, sys
open(os.environ["NOTES"], "a").write(json.dumps(sys.argv[1:]) + "\\n")
"""


def launch(folder: Path, *options: str):
    for name in ("sky", "python"):
        (folder / name).write_text(RECORDS)
        (folder / name).chmod(0o755)
    return subprocess.run(
        [ROOT / "launch" / "skypilot.sh", "--skip_checks=plan,data", *options],
        env=os.environ
        | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "NOTES": str(folder / "notes"),
        },
        capture_output=True,
        text=True,
    )


def noted(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


def test_nodes_get_the_command_unchanged_with_their_places(tmp_path):
    result = launch(tmp_path, "--topology=h100:16", "--name=two words", "--", *COMMAND)
    assert result.returncode == 0, result.stderr
    (call,) = noted(tmp_path)
    given = call.pop()
    assert call == [
        *("jobs", "launch", str(TASK), "--gpus=H100:8", "--num-nodes=2"),
        *("--name=two words", "--yes"),
    ]
    # SkyPilot runs this part of the file on each node.
    (tmp_path / "notes").unlink()
    subprocess.run(
        ["bash", "-c", yaml.safe_load(TASK.read_text())["run"]],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "NOTES": str(tmp_path / "notes"),
            "COMMAND": given.removeprefix("--env=COMMAND="),
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        },
        check=True,
    )
    place = ["--coordinator_address=10.0.0.1:8476", "--num_processes=2", "--process_id=1"]
    assert noted(tmp_path) == [[*COMMAND[1:], *place]]


def test_a_dry_run_prints_what_runs(tmp_path):
    options = ("--topology=a100:4", "--", *COMMAND)
    printed = launch(tmp_path, "--dry-run", *options).stdout
    assert not (tmp_path / "notes").exists()
    assert launch(tmp_path, *options).returncode == 0
    subprocess.run(
        ["bash", "-c", printed],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")},
        check=True,
    )
    first, second = noted(tmp_path)
    assert first == second
    assert "--gpus=A100-80GB:4" in first


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--topology=h100:12", "--", "python"], "eight GPUs each"),
        (["--topology=v5e:4x4", "--", "python"], "write a100, h100, h200 or b200"),
        (["--topology=h100:8"], "no command"),
    ],
)
def test_bad_input_is_one_line(tmp_path, options, complaint):
    result = launch(tmp_path, *options)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert complaint in line


@pytest.mark.skipif(
    not os.environ.get("SKYPILOT_PYTHON"),
    reason="SKYPILOT_PYTHON names no Python that has SkyPilot, which has requirements of its own",
)
def test_skypilot_reads_the_task():
    read = f"(found,) = sky.Task.from_yaml({str(TASK)!r}).resources"
    code = f"import sky; {read}; print(found.job_recovery)"
    result = subprocess.run(
        [os.environ["SKYPILOT_PYTHON"], "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "'recover_on_exit_codes': [75]" in result.stdout
