"""Several real processes on loopback: they start together and end together, and train as one."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from oner_jax.training.checkpointing.checkpoints import available_steps, load_run
from tests.marks import slow

ROOT = Path(__file__).parents[2]
MEMBER = [sys.executable, "-m", "tests.parallel.member"]
TRAIN = [
    *(sys.executable, "-m", "oner_jax.train", "--config=configs/oner.py:tiny"),
    *("--config.batch_size=16", "--config.total_steps=4"),
    *("--config.log_interval_steps=1", "--config.checkpoint.interval_steps=2"),
]


def run(command: list[str], *, processes: int = 1, devices: int = 1):
    """The command as so many processes of so many devices each, by `launch/local.py`."""
    if processes > 1:
        own = [f"--processes={processes}", f"--devices_per_process={devices}", "--"]
        command = [sys.executable, "launch/local.py", *own, *command]
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_processes_see_the_devices_of_all():
    result = run(MEMBER, processes=2, devices=3)
    assert result.returncode == 0, result.stderr
    assert "[0] 0 of 2, 6 devices" in result.stdout
    assert "[1] 1 of 2, 6 devices" in result.stdout
    for process in (0, 1):
        assert f"[{process}] gathered [[1, 0]]" in result.stdout
        assert f"[{process}] gathered [[0, 1], [1, 1]]" in result.stdout
    host = socket.gethostname()
    assert f"[0] processes   0 on {host}, 1 on {host}" in result.stderr


def test_every_process_gives_the_rows_that_its_devices_hold():
    result = run([*MEMBER, "--role=rows"], processes=2, devices=2)
    assert result.returncode == 0, result.stderr
    for said in (
        "[0] (1, -1, 1, 1): rows 8 to 15",
        "[1] (1, -1, 1, 1): rows 0 to 7",
        "[0] (1, 1, 2, 2): rows 8 to 15",
        "[0] (1, 1, 1, 4): rows 0 to 15",
        "[1] (1, 1, 1, 4): rows 0 to 15",
    ):
        assert said in result.stdout


def test_bad_input_on_one_process_ends_all_with_its_cause():
    result = run([*MEMBER, "--role=fails"], processes=2)
    assert result.returncode == 2, result.stderr
    assert "[1] error: record 9 cannot be decoded" in result.stderr
    cause = f"process 1 ({socket.gethostname()}) failed: record 9 cannot be decoded"
    assert f"[0] stopped, because {cause}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_crash_of_process_0_ends_all_with_its_cause():
    result = run([*MEMBER, "--role=crashes"], processes=2)
    assert result.returncode == 1, result.stderr
    assert "[0] ZeroDivisionError: on process 0" in result.stderr
    assert "[1] stopped, because process 0" in result.stderr


def test_processes_of_different_configs_do_not_start():
    result = run([*MEMBER, "--role=differs"], processes=2)
    assert result.returncode == 2, result.stderr
    assert "[1] error: this process differs from process 0 (seed: 0 -> 7)" in result.stderr
    assert "[0] stopped, because process 1" in result.stderr


def test_a_workdir_that_hosts_do_not_share_is_refused_at_the_start(tmp_path):
    result = run([*MEMBER, "--role=shares not", f"--folder={tmp_path}"], processes=2)
    assert result.returncode == 2, result.stderr
    assert f"[1] error: {tmp_path}/1 on {socket.gethostname()} is not the folder" in result.stderr
    assert "give a --workdir on storage that all hosts share" in result.stderr
    assert "[0] stopped, because process 1" in result.stderr
    assert "Traceback" not in result.stderr
    result = run([*MEMBER, "--role=shares", f"--folder={tmp_path / 'run'}"], processes=2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("held") == 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_under_slurm_nothing_has_to_be_said():
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    tasks = [
        subprocess.Popen(
            MEMBER,
            cwd=ROOT,
            env=os.environ | job | {"SLURM_PROCID": number, "SLURM_LOCALID": number},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    said = [task.communicate(timeout=100)[0].splitlines()[-1] for task in tasks]
    assert said == ["0 of 2, 16 devices", "1 of 2, 16 devices"]


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", "jax_default_prng_impl rbg"),
        slow("JAX_THREEFRY_PARTITIONABLE", "0", "jax_threefry_partitionable False"),
        slow("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=true"),
    ],
)
def test_processes_of_other_settings_do_not_start(variable, value, named):
    """Otherwise they train on with other numbers, or wait for each other for ever."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [*MEMBER, address, "--num_processes=2", f"--process_id={number}"],
            cwd=ROOT,
            env=os.environ | ({variable: value} if number else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=100)
        assert process.returncode == 1, complaint
        last = complaint.splitlines()[-1]
        assert last.startswith(f"error: process 1 ({socket.gethostname()}) has ")
        assert named in last
        assert last.endswith("start all processes alike")


def test_a_missing_process_is_named_in_one_line():
    place = [f"--coordinator_address=127.0.0.1:{free_port()}"]
    place += ["--num_processes=3", "--process_id=0"]
    result = run([*MEMBER, *place, "--startup_timeout_seconds=1"])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    complaint = result.stderr.strip().splitlines()[-1]
    assert complaint.startswith("error: 2 of 3 processes did not come within 1 s: missing")
    assert f"came 0 ({socket.gethostname()})" in complaint


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--platform=gpu",), "ACCELERATOR=cuda12"),
        (("--num_processes=2", "--process_id=0"), "--coordinator_address is missing"),
    ],
)
def test_a_start_that_cannot_be_is_one_line_and_exit_code_2(flags, named):
    result = run([*MEMBER, *flags])
    assert result.returncode == 2, result.stderr
    complaint = result.stderr.strip().splitlines()[-1]
    assert complaint.startswith("error: ")
    assert named in complaint


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    result = run([*TRAIN, f"--workdir={workdir}"], devices=8)
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The same run by two processes of four devices, with parameters cut across them."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=4"]
    result = run([*TRAIN, *mesh, f"--workdir={workdir}"], processes=2, devices=4)
    assert result.returncode == 0, result.stderr
    return workdir


def metrics(workdir: Path) -> list[dict[str, float]]:
    """What was logged, but for times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = {"pairs_per_sec", "data_wait_fraction", "pairs_per_sec_per_chip"}
    times |= {"checkpoint/blocked_seconds"}
    return [
        {name: line[name] for name in line if name not in times and "goodput" not in name}
        for line in lines
    ]


def parameters(workdir: Path, weights: str):
    """All but the bias of attention's keys, to which softmax is blind: its gradient is rounding
    error, of which Adam's first steps make whole ones."""
    tree = load_run(workdir, weights=weights).parameters
    for name in ("blocks", "last_block"):
        bias = tree["backbone"]["tower"][name]["attention"]["qkv"]
        bias["bias"] = np.delete(np.asarray(bias["bias"]), 1, axis=1)
    return tree


def assert_same_run(workdir: Path, other: Path) -> None:
    for line, other_line in zip(metrics(workdir), metrics(other), strict=True):
        assert line.keys() == other_line.keys()
        for name, value in line.items():
            np.testing.assert_allclose(value, other_line[name], rtol=1e-5, err_msg=name)
    for weights in ("online", "momentum"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
            parameters(workdir, weights),
            parameters(other, weights),
        )


def test_two_processes_train_on_two_terms_as_one(tmp_path):
    """What is fast enough for every run of the tests: less to compile."""
    tiny = "--config=configs/oner.py:tiny"
    command = [argument.replace(tiny, f"{tiny},terms=itc+mlm") for argument in TRAIN]
    command.append("--config.mesh.fsdp=2")
    one, two = tmp_path / "one", tmp_path / "two"
    for workdir, processes, devices in ((one, 1, 4), (two, 2, 2)):
        result = run([*command, f"--workdir={workdir}"], processes=processes, devices=devices)
        assert result.returncode == 0, result.stderr
    assert available_steps(two) == [2, 4]
    assert_same_run(one, two)


@pytest.mark.slow
def test_two_processes_train_as_one(one, two):
    assert available_steps(two) == [2, 4]
    assert_same_run(one, two)


@pytest.mark.slow
def test_four_processes_train_as_one(one, tmp_path):
    workdir = tmp_path / "four"
    result = run([*TRAIN, f"--workdir={workdir}"], processes=4, devices=2)
    assert result.returncode == 0, result.stderr
    assert_same_run(one, workdir)


def started_and_saved(
    workdir: Path, own: list[str], *, total_steps: int
) -> "subprocess.Popen[str]":
    """A launcher of two processes, with options of its own, after their first checkpoint."""
    process = subprocess.Popen(
        [
            *(sys.executable, "launch/local.py", "--processes=2", "--devices_per_process=1"),
            *(*own, "--", *TRAIN, f"--config.total_steps={total_steps}", f"--workdir={workdir}"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not available_steps(workdir) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_two_processes_asked_to_stop_do_so_at_the_same_step(tmp_path):
    workdir = tmp_path / "stopped"
    process = started_and_saved(workdir, ["--grace_seconds=30"], total_steps=100000)
    process.terminate()
    _, complaint = process.communicate(timeout=200)
    assert process.returncode == 75, complaint
    said = f"stopped as asked at step {available_steps(workdir)[-1]};"
    assert f"[0] {said}" in complaint
    assert f"[1] {said}" in complaint


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_as_one(one, two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "resumed")
    shutil.rmtree(workdir / "checkpoints" / "4")
    result = run([*TRAIN, f"--workdir={workdir}"], devices=8)
    assert result.returncode == 0, result.stderr
    assert "continuing at step 2" in result.stdout
    assert_same_run(one, workdir)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """Six steps by one process of eight devices."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    result = run([*TRAIN, "--config.total_steps=6", f"--workdir={workdir}"], devices=8)
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    "places", [[(1, 1), (1, 4)], [(2, 4), (4, 2)]], ids=["8, 1, 4 devices", "1, 2, 4 processes"]
)
def test_a_run_moves_between_devices_and_hosts(uninterrupted, tmp_path, places):
    """Each place continues from the checkpoint that the one before has made."""
    workdir = shutil.copytree(uninterrupted, tmp_path / "moving")
    command = [*TRAIN, "--config.total_steps=6", f"--workdir={workdir}"]
    for step, (processes, devices) in zip((2, 4), places, strict=True):
        for later in [number for number in available_steps(workdir) if number > step]:
            shutil.rmtree(workdir / "checkpoints" / str(later))
        result = run(command, processes=processes, devices=devices)
        assert result.returncode == 0, result.stderr
        assert f"continuing at step {step}" in result.stdout
    assert_same_run(uninterrupted, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_and_the_launcher_continues(tmp_path, victim):
    workdir = tmp_path / "killed"
    own = ["--restarts=1", "--restart_lost"]
    process = started_and_saved(workdir, own, total_steps=60)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[victim]), signal.SIGKILL)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    lost = f"stopped, because process {victim} ({socket.gethostname()}) is lost"
    assert f"[{1 - victim}] {lost}" in complaint
    assert "exit code 137: starting again" in complaint
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 61))
