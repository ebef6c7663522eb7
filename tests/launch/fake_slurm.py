"""A SLURM of one process: copied into a folder of the PATH as sbatch, srun, squeue and scontrol.

`$FAKE_SLURM` holds `calls` (one JSON list a call, the program's name first), `outcomes` (what each
start of the tasks does: an exit code, `preempt` or `cancel`), `state` of the job, a task's `cores`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SLURM = Path(os.environ["FAKE_SLURM"])


def sbatch(arguments: list[str]) -> int:
    """Runs the job at once, from a copy as SLURM does, for as long as it is put back."""
    script = next(n for n, word in enumerate(arguments) if not word.startswith("--"))
    copy = SLURM / "slurm_script"
    shutil.copy(arguments[script], copy)
    folder = next(word.partition("=")[2] for word in arguments if word.startswith("--chdir="))
    for count in range(10):
        (SLURM / "state").write_text("RUNNING")
        environment = os.environ | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(count)}
        for word in arguments[:script]:
            if word.startswith("--cpus-per-task="):
                environment["SLURM_CPUS_PER_TASK"] = word.partition("=")[2]
        code = subprocess.run(
            ["bash", copy, *arguments[script + 1 :]], cwd=folder, env=environment
        ).returncode
        if (SLURM / "state").read_text() != "PENDING":
            return code
    raise AssertionError("put back again and again")


def srun(arguments: list[str]) -> int:
    starts = [json.loads(line)[0] for line in (SLURM / "calls").read_text().splitlines()]
    (SLURM / "cores").write_text(os.environ.get("SRUN_CPUS_PER_TASK", "1"))  # since SLURM 22.05
    outcome = (SLURM / "outcomes").read_text().split()[starts.count("srun") - 1]
    if outcome == "cancel":
        (SLURM / "state").write_text("COMPLETING")
    return 75 if outcome in ("preempt", "cancel") else int(outcome)


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (SLURM / "calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    if name == "sbatch":
        return sbatch(arguments)
    if name == "srun":
        return srun(arguments)
    if name == "squeue":
        print((SLURM / "state").read_text())
    elif name == "scontrol":
        assert arguments == ["requeue", "7"]
        (SLURM / "state").write_text("PENDING")
    return 0


if __name__ == "__main__":
    sys.exit(main())
