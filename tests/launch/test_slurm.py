"""launch/slurm.sbatch against a recording SLURM, and where Debian's is installed against that."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHER = str(ROOT / "launch" / "slurm.sbatch")
COMMAND = [
    *("python", "-m", "oner_jax.train", "--config=configs/oner.py:tiny", "--workdir=/shared/run"),
    *('--config.data.train=a b\'s "c" $HOME `id` \\ * #;&|', "--config.note="),
]
SBATCH = ["--nodes=4", "--gpus-per-node=8", "--comment=two words"]


class Slurm:
    """The fake SLURM of one test."""

    def __init__(self, folder: Path):
        self.folder = folder
        source = (Path(__file__).parent / "fake_slurm.py").read_text()
        for name in ("sbatch", "srun", "squeue", "scontrol"):
            (folder / name).write_text(f"#!{sys.executable} -IS\n{source}")
            (folder / name).chmod(0o755)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
        } | {
            "FAKE_SLURM": str(folder),
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
        }

    def run(self, *options: str, outcomes: str = "0", skip: str = "plan,data", command=COMMAND):
        (self.folder / "outcomes").write_text(outcomes)
        return subprocess.run(
            [LAUNCHER, f"--skip_checks={skip}", *options, "--", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, name: str) -> list[list[str]]:
        if not (self.folder / "calls").exists():
            return []
        lines = (self.folder / "calls").read_text().splitlines()
        return [call[1:] for line in lines if (call := json.loads(line))[0] == name]


@pytest.fixture
def slurm(tmp_path) -> Slurm:
    return Slurm(tmp_path)


def test_success_is_one_submission_and_one_start(slurm):
    result = slurm.run(*SBATCH)
    assert result.returncode == 0, result.stderr
    assert slurm.calls("sbatch") == [
        [f"--chdir={ROOT}", "--ntasks-per-node=1", *SBATCH, LAUNCHER, "--", *COMMAND]
    ]
    assert slurm.calls("srun") == [["--kill-on-bad-exit=0", *COMMAND]]
    assert slurm.calls("scontrol") == []


def test_one_task_a_gpu_is_what_sbatch_is_told(slurm):
    tasks = ["--ntasks-per-node=8", "--gpus-per-task=1"]
    slurm.run(*tasks)
    assert slurm.calls("sbatch")[0][1:3] == tasks


@pytest.mark.parametrize(("options", "cores"), [([], "1"), (["--cpus-per-task=64"], "64")])
def test_a_task_has_the_cores_that_were_asked_for(slurm, options, cores):
    assert slurm.run(*options).returncode == 0
    assert (slurm.folder / "cores").read_text() == cores


def test_a_preemption_goes_back_into_the_queue_and_starts_the_same(slurm):
    result = slurm.run(outcomes="preempt 75 0")
    assert result.returncode == 0, result.stderr
    assert slurm.calls("srun") == [["--kill-on-bad-exit=0", *COMMAND]] * 3
    assert len(slurm.calls("sbatch")) == 1
    assert "start 2" in result.stdout


def test_a_cancelled_job_stays_cancelled(slurm):
    assert slurm.run(outcomes="cancel").returncode == 75
    assert slurm.calls("scontrol") == []


def test_a_failure_stops_with_its_exit_code(slurm):
    result = slurm.run(outcomes="2")
    assert result.returncode == 2
    assert "error: ended with exit code 2" in result.stderr
    assert slurm.calls("scontrol") == []


@pytest.mark.parametrize(
    ("options", "started"),
    [
        (
            ["--apptainer=oner.sif", "--mount=/data"],
            [
                "apptainer",
                "exec",
                "--nv",
                "--bind",
                f"{ROOT},/data",
                "--pwd",
                str(ROOT),
                "oner.sif",
            ],
        ),
        (
            ["--pyxis=registry#oner", "--mount=/data"],
            [
                "--container-image=registry#oner",
                f"--container-mounts={ROOT}:{ROOT},/data:/data",
                f"--container-workdir={ROOT}",
            ],
        ),
    ],
)
def test_a_container_holds_the_same_command(slurm, options, started):
    assert slurm.run(*options).returncode == 0
    assert slurm.calls("srun") == [["--kill-on-bad-exit=0", *started, *COMMAND]]


def test_a_dry_run_prints_what_runs(slurm):
    printed = slurm.run(*SBATCH, "--dry-run").stdout
    assert not slurm.calls("sbatch")
    slurm.run(*SBATCH)
    assert [shlex.split(line) for line in printed.splitlines()] == [
        ["sbatch", *slurm.calls("sbatch")[0]],
        ["srun", *slurm.calls("srun")[0]],
    ]


def test_what_does_not_fit_is_not_submitted_unless_told_so(slurm):
    huge = [*COMMAND[:3], "--config=configs/oner.py:h14", "--config.batch_size=65536"]
    result = slurm.run("--topology=h100:8", skip="data", command=huge)
    assert result.returncode == 2
    assert "GiB a device and batch 65536 with remat 'cheap' needs" in result.stderr
    assert "--skip_checks=plan starts all the same" in result.stderr
    assert slurm.calls("sbatch") == []
    assert slurm.run("--topology=h100:8", command=huge).returncode == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--nodes=2", "--", "python"], "--topology is missing"),
        (["--topology=h100:8"], "no command"),
        (["--topology=h100:8", "-N", "2", "--", "python"], "write sbatch's as --name=value"),
    ],
)
def test_bad_input_is_one_line(slurm, options, complaint):
    result = subprocess.run(
        [LAUNCHER, *options], env=slurm.environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert complaint in line
