"""launch/tpu_vm.sh against a Cloud TPU of folders, on whose workers launch/worker.sh runs."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = ["--name=pod", "--zone=z", "--topology=v5e:4x4"]
# What shells like to take apart.
COMMAND = [
    *("python", "-m", "oner_jax.train", "--config=configs/oner.py:tiny", "--workdir=gs://b/run"),
    *('--config.data.train=a b\'s "c" $HOME `id` \\ * #;&|', "--config.note="),
]


class Cloud:
    """The fake cloud of one test."""

    def __init__(self, folder: Path):
        self.folder = folder
        # A small checkout: the real one, with its pictures, takes a second to each worker.
        shutil.copytree(ROOT / "launch", folder / "code" / "launch")
        subprocess.run(["git", "init", "--quiet", folder / "code"], check=True)
        self.launcher = str(folder / "code" / "launch" / "tpu_vm.sh")
        (folder / "bin").mkdir()
        for name, target in (("gcloud", "bin/gcloud"), ("python", "python")):
            source = (Path(__file__).parent / f"fake_{name}.py").read_text()
            (folder / target).write_text(f"#!{sys.executable} -IS\n{source}")
            (folder / target).chmod(0o755)
        self.environment = os.environ | {
            "FAKE_CLOUD": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "POLL_SECONDS": "0.05",
            "GRACE_SECONDS": "5",
            "TMPDIR": str(folder),
        }

    def start(self, *options: str, command=COMMAND) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.launcher, *PLACE, *options, "--", *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, outcomes: str = "0", command=COMMAND):
        (self.folder / "outcomes").write_text(outcomes)
        process = self.start("--skip_checks=plan", *options, command=command)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, output, errors)

    def calls(self) -> list[str]:
        """What was done, without looks: `queued-resources create`, `tpu-vm ssh pod`, ..."""
        lines = (self.folder / "calls").read_text().splitlines()
        plain = [[w for w in json.loads(line)[2:] if not w.startswith("--")] for line in lines]
        return [" ".join(words) for words in plain if words[1] != "describe"]

    def runs(self, worker: str) -> list[list[str]]:
        """The command lines with which training was started on a worker."""
        lines = (self.folder / f"ran-{worker}").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    return Cloud(tmp_path)


ONCE = ["tpu-vm scp {archive} pod:oner_jax.tar.gz", *["tpu-vm ssh pod"] * 4]
CREATE, DELETE = "queued-resources create pod", "queued-resources delete pod"


def without_archive(calls: list[str]) -> list[str]:
    return ["tpu-vm scp {archive} pod:oner_jax.tar.gz" if "scp" in call else call for call in calls]


def test_success_creates_sets_up_runs_and_cleans_up(cloud):
    result = cloud.run("--spot")
    assert result.returncode == 0, result.stderr
    # Set up, check, start, follow.
    assert without_archive(cloud.calls()) == [CREATE, *ONCE, DELETE]
    assert result.stdout == "training on pod-0\n"
    assert cloud.runs("pod-0") == cloud.runs("pod-1") == [COMMAND[1:]]
    for worker in "01":
        home = cloud.folder / "homes" / "pod" / worker
        assert (home / "made").read_text() == "make --silent venv\n"
        assert (home / "oner_jax" / "launch" / "worker.sh").is_file()
    assert not list(cloud.folder.glob("tpu_vm-*"))
    checked = json.loads((cloud.folder / "checked").read_text())
    assert checked[:4] == ["-m", "launch.preflight", "--checks=data", "--topology=v5e:4x4"]
    assert checked[5:] == COMMAND


def test_a_preemption_in_the_middle_starts_again_in_the_same_workdir(cloud):
    result = cloud.run(outcomes="preempt 0")
    assert result.returncode == 0, result.stderr
    calls = without_archive(cloud.calls())
    assert calls == [CREATE, *ONCE, DELETE, CREATE, *ONCE, DELETE]
    assert "pod was taken away" in result.stderr
    assert cloud.runs("pod-0") == [COMMAND[1:], COMMAND[1:]]


def test_exit_code_75_starts_again_on_the_same_machines(cloud):
    result = cloud.run(outcomes="75 0")
    assert result.returncode == 0, result.stderr
    assert cloud.calls().count(CREATE) == 1
    assert len(cloud.runs("pod-0")) == len(cloud.runs("pod-1")) == 2


def test_a_failure_stops_and_says_where(cloud):
    result = cloud.run(outcomes="3")
    assert result.returncode == 3
    assert DELETE not in cloud.calls()
    assert "error: training ended with exit code 3" in result.stderr
    assert "tpu-vm ssh pod --zone=z --worker=0 --command=cat\\ oner_jax.log" in result.stderr
    assert "--name=pod --zone=z --delete" in result.stderr
    deletion = cloud.run("--delete")
    assert deletion.returncode == 0, deletion.stderr
    assert cloud.calls()[-1] == DELETE


def test_a_set_up_that_fails_names_the_node_and_shows_why(cloud):
    (cloud.folder / "python").unlink()
    result = cloud.run("--num_slices=2")
    assert result.returncode == 1
    assert "set-up failed on pod-0; the last lines of" in result.stderr
    assert "cannot stat" in result.stderr
    assert "error: set-up ended with exit code 1" in result.stderr


def test_data_that_fail_their_check_on_the_worker_are_not_trained_on(cloud):
    (cloud.folder / "check").write_text("2")
    result = cloud.run()
    assert result.returncode == 2
    assert "error: the check of the data ended with exit code 2" in result.stderr
    assert not list(cloud.folder.glob("ran-*"))
    assert cloud.run("--skip_checks=plan,data").returncode == 0


def test_slices_are_set_up_and_started_alike(cloud):
    result = cloud.run("--num_slices=2")
    assert result.returncode == 0, result.stderr
    for worker in ("pod-0-0", "pod-0-1", "pod-1-0", "pod-1-1"):
        assert cloud.runs(worker) == [COMMAND[1:]]
    create = json.loads((cloud.folder / "calls").read_text().splitlines()[1])
    assert create[4:] == [
        *("pod", "--zone=z", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--node-count=2", "--node-prefix=pod"),
    ]


def test_a_run_outlives_its_launcher_which_finds_it_again_and_stops_it(cloud):
    (cloud.folder / "outcomes").write_text("wait")
    first = cloud.start("--skip_checks=plan")
    assert first.stdout is not None
    assert first.stdout.readline() == "training on pod-0\n"
    first.kill()
    first.communicate()
    second = cloud.start("--skip_checks=plan")
    assert second.stdout is not None
    assert second.stdout.readline() == "training on pod-0\n"
    assert len(cloud.runs("pod-0")) == 1
    stopped = subprocess.run(
        [cloud.launcher, *PLACE, "--stop"], env=cloud.environment, capture_output=True, text=True
    )
    assert stopped.returncode == 0, stopped.stderr
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 75, errors
    assert "stopped; the same command continues" in errors


def test_a_dry_run_prints_what_runs(cloud):
    result = cloud.run("--dry-run")
    assert result.returncode == 0, result.stderr
    assert not (cloud.folder / "calls").exists()
    cloud.run()
    done = [
        ["gcloud", *json.loads(line)] for line in (cloud.folder / "calls").read_text().splitlines()
    ]
    printed = [shlex.split(line) for line in result.stdout.splitlines()]

    def plain(commands: list[list[str]]) -> list[list[str]]:
        """Without looks, of which the number depends on the cloud, and folders, which are new."""
        return [
            [word for word in command if not word.endswith(".tar.gz")]
            for command in commands
            if "describe" not in command
        ]

    assert plain(printed) == plain(done)


def test_a_download_without_git_is_packed_and_run(cloud):
    code = cloud.folder / "code"
    shutil.rmtree(code / ".git")
    for left in ("runs/big", ".venv/bin/python", ".cache/x", "launch/__pycache__/x.pyc"):
        (code / left).parent.mkdir(parents=True, exist_ok=True)
        (code / left).touch()
    dry = cloud.run("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "taken away" not in dry.stderr
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    home = cloud.folder / "homes" / "pod" / "0" / "oner_jax"
    assert (home / "launch" / "worker.sh").is_file()
    assert not (home / "runs").exists()
    assert not (home / ".cache").exists()
    assert not list(home.rglob("*.pyc"))


def test_code_that_cannot_be_packed_creates_nothing(cloud):
    (cloud.folder / "bin" / "tar").write_text("#!/bin/bash\nexit 2\n")
    (cloud.folder / "bin" / "tar").chmod(0o755)
    result = cloud.run()
    assert result.returncode == 2
    assert "cannot be packed; nothing was created" in result.stderr
    assert "costs money" not in result.stderr
    assert not (cloud.folder / "calls").exists()


@pytest.mark.parametrize("fails", ["create", "describe", "delete"])
def test_whatever_fails_after_a_resource_was_made_says_how_to_delete_it(cloud, fails):
    """The n-th call of gcloud fails, as without network or permission."""
    gcloud = cloud.folder / "bin" / "gcloud"
    gcloud.rename(cloud.folder / "bin" / "real")
    gcloud.write_text(
        "#!/bin/bash\n"
        f"[[ $4 != {fails} || ({fails} == describe && ! -f $FAKE_CLOUD/state) ]] || "
        "{ echo PERMISSION_DENIED >&2; exit 1; }\n"
        'exec "${BASH_SOURCE[0]%/*}/real" "$@"\n'
    )
    gcloud.chmod(0o755)
    result = cloud.run()
    assert result.returncode != 0
    assert result.stderr.splitlines()[-2:] == [
        "pod is still there, as far as is known, and costs money. To delete it:",
        "    launch/tpu_vm.sh --name=pod --zone=z --delete",
    ]


def test_a_recipe_that_does_not_fit_creates_nothing(cloud, tmp_path):
    refusing = tmp_path / "refusing"
    refusing.write_text('#!/bin/bash\necho "$@" >>"$FAKE_CLOUD/planned"; exit 2\n')
    refusing.chmod(0o755)
    cloud.environment["PYTHON"] = str(refusing)
    process = cloud.start()
    process.communicate(timeout=60)
    assert process.returncode == 2
    planned = (cloud.folder / "planned").read_text()
    assert "launch.preflight --checks=plan --topology=v5e:4x4 --num_slices=1 -- python" in planned
    assert not (cloud.folder / "calls").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--zone=z"], "--name is missing"),
        (["--name=x"], "--zone is missing"),
        (["--name=x", "--zone=z"], "--topology is missing"),
        ([*PLACE], "no command"),
        ([*PLACE, "--topologie=v5e:4x4"], "unknown option --topologie"),
        ([*PLACE, "--topology=h100:8", "--", "python"], "write CHIP:SHAPE"),
        ([*PLACE, "--topology=7x:2x2x1", "--", "python"], "launch/gke"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_called(cloud, options, complaint):
    result = subprocess.run(
        [cloud.launcher, *options], env=cloud.environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not (cloud.folder / "calls").exists()
