"""Runs of a sweep as jobs of a launcher: `launch/sweep.py --launcher=...`.

A job is `python -m launch.jobs DIR/TRIAL/seed-0` on all its hosts, which runs the commands noted
beside that folder and then notes that the run is finished.
"""

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
from oner_jax.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED

# Beside a run's folder: its commands and the launcher that was given them; and that they failed.
JOB, FAILED = ".job.json", ".job.failed"


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
        """The launcher's command line. Names of jobs are lower case, figures and dashes."""
        name = re.sub("[^a-z0-9]+", "-", f"{run.trial.name}-seed-{run.seed}".lower()).strip("-")
        launcher = [word.replace("{name}", name) for word in shlex.split(self._launcher)]
        return [*launcher, "--", "python", "-m", "launch.jobs", str(run.folder.absolute())]

    def stop(self) -> None:
        """Jobs go on without the sweep."""

    def close(self) -> None:
        """Nothing is kept."""


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
