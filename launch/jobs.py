"""Runs of a sweep as jobs of a launcher: `launch/sweep.py --launcher=...`.

A job is `python -m launch.jobs DIR/TRIAL/seed-0` on all its hosts, which runs the commands noted
beside that folder and then notes that the run is finished.
"""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.runs import Run, RunFailed, note
from oner_jax.command_line.program import EXIT_BAD_INPUT, EXIT_PREEMPTED

# Beside a run's folder: its commands and the launcher that was given them; and that they failed.
JOB, FAILED = ".job.json", ".job.failed"
# Kubernetes's 63 characters, less what it adds for a pod of many.
_LONGEST_NAME = 40
_DIGITS = 6


class NotFinished(Exception):
    """A run is in the hands of its launcher."""


class Jobs:
    """Gives each run to a launcher; the counterpart of `Runner`."""

    def __init__(self, launcher: str):
        self._launcher = launcher

    def __call__(self, run: Run) -> float:
        """Launch; returns the seconds the run took, where the launcher has waited for its end.

        Raises NotFinished where it has not, or where the run was launched before; RunFailed.
        """
        job, failed = run.beside(JOB), run.beside(FAILED)
        content = {"launcher": self._launcher, "commands": [list(each) for each in run.commands]}
        launched = job.exists() and json.loads(job.read_text()) == content
        if launched and not failed.exists():
            raise NotFinished(f"launched before, not finished; to launch it again, delete {job}")
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        note(job, content)
        failed.unlink(missing_ok=True)
        command = self.command(run)
        if shutil.which(command[0]) is None:
            job.unlink()
            raise RunFailed(f"--launcher: there is no program {command[0]!r}")
        with run.beside(".log").open("ab") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            job.unlink(missing_ok=True)
            raise RunFailed(f"exit code {code} of {shlex.join(command)}; see {run.beside('.log')}")
        seconds = run.seconds()
        if seconds is None:
            raise NotFinished("launched")
        return seconds

    def command(self, run: Run) -> list[str]:
        """The launcher's command line."""
        name = job_name(f"{run.trial.name}-seed-{run.seed}")
        launcher = [word.replace("{name}", name) for word in shlex.split(self._launcher)]
        return [*launcher, "--", "python", "-m", "launch.jobs", str(run.folder.absolute())]

    def stop(self) -> None:
        """Jobs go on without the sweep."""

    def close(self) -> None:
        """Nothing is kept."""


def job_name(name: str) -> str:
    """Return what clusters take for the name of a job: lower case, figures, dashes, and not many.

    A name that has to be changed gets a hash, as others may change to the same: -10.0 and 10.0.
    """
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= _LONGEST_NAME and plain[0].isalpha():
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    if not plain[:1].isalpha():
        plain = f"run-{plain}"
    return f"{plain[: _LONGEST_NAME - _DIGITS - 1].strip('-')}-{digest}"


def main(arguments: Sequence[str]) -> int:
    """In the job, on every process: `FOLDER [flag...]`, the flags being those of several hosts."""
    if not arguments:
        print("error: name the folder of a run", file=sys.stderr)
        return EXIT_BAD_INPUT
    folder, place = Path(arguments[0]), arguments[1:]
    failed = folder.with_name(folder.name + FAILED)
    started = time.monotonic()
    try:
        commands = json.loads(folder.with_name(folder.name + JOB).read_text())["commands"]
    except FileNotFoundError as error:
        print(
            f"error: {error.filename} is missing: launch.sweep --launcher makes it", file=sys.stderr
        )
        return EXIT_BAD_INPUT
    failed.unlink(missing_ok=True)
    for command in commands:
        code = subprocess.run([sys.executable, "-m", *command, *place]).returncode
        if code:
            # The next sweep may launch it again, if its launcher does not: after a lost host, say.
            if code != EXIT_PREEMPTED:
                failed.touch()
            return code if code > 0 else 128 - code
    seconds = round(time.monotonic() - started, 1)
    note(folder.with_name(folder.name + ".json"), {"commands": commands, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
