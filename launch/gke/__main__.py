"""Train on GKE, on TPU slices or GPU nodes:

    python -m launch.gke --name=oner --image=IMAGE --topology=v5e:8x8 -- \\
        python -m oner_jax.train --config=configs/oner.py:b16 --workdir=gs://BUCKET/runs/b16

Applies a JobSet (tpu.yaml or gpu.yaml beside this file) to the cluster that kubectl speaks to,
follows the log of its first pod over restarts, and deletes it when the run is done. The same
command again follows a run that goes on, or continues one that does not. What follows `--` is what
would run on a laptop; data and --workdir lie on gs://BUCKET.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from launch.gke.manifest import Job, render
from oner_jax.command_line import streams
from oner_jax.command_line.program import EXIT_BAD_INPUT, EXIT_FAILED
from oner_jax.errors import InputError
from oner_jax.planning.topology import Topology

# XPK and Cloud TPU name slices by chips or by TensorCores.
XPK_TYPES = {
    "v4": "v4-{cores}",
    "v5e": "v5litepod-{chips}",
    "v5p": "v5p-{cores}",
    "v6e": "v6e-{chips}",
    "7x": "tpu7x-{cores}",
    "h100": "h100-mega-80gb-8",
    "h200": "h200-141gb-8",
    "b200": "b200-8",
}


class Commands:
    """Runs other programs, or prints them."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def run(self, *command: str, text: str = "") -> int:
        """Runs a command, its output as it comes; returns its exit code. `text` is its input."""
        line = shlex.join(command)
        if self.dry_run:
            print(line + (f" <<'END'\n{text}END" if text else ""), flush=True)
            return 0
        print(f"+ {line}", file=sys.stderr, flush=True)
        _require_program(command[0])
        return subprocess.run(command, input=text or None, text=True).returncode

    def require(self, *command: str, text: str = "") -> None:
        """As `run`. Raises InputError where the command fails."""
        if code := self.run(*command, text=text):
            raise InputError(f"{shlex.join(command)} ended with exit code {code}")

    def ask(self, *command: str) -> str:
        """What a command says; nothing in a dry run, or where the thing is not there."""
        if self.dry_run:
            return ""
        _require_program(command[0])
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode and "NotFound" not in answer.stderr:
            reason = " ".join(answer.stderr.split())
            raise InputError(f"{shlex.join(command)}: {reason}")
        return answer.stdout.strip()


def _require_program(name: str) -> None:
    if shutil.which(name) is None:
        raise InputError(f"{name} is not installed here, or not on PATH")


class JobSet:
    """A JobSet on the cluster."""

    def __init__(self, name: str, kubectl: Sequence[str], commands: Commands, poll_seconds: float):
        self._name, self._kubectl, self._commands = name, kubectl, commands
        self._poll_seconds = poll_seconds

    def state(self) -> str:
        """`Completed`, `Failed`, or nothing while it is neither."""
        path = "-o=jsonpath={.status.terminalState}"
        return self._commands.ask(*self._kubectl, "get", "jobset", self._name, path)

    def reason(self) -> str:
        path = '-o=jsonpath={.status.conditions[?(@.type=="Failed")].message}'
        return self._commands.ask(*self._kubectl, "get", "jobset", self._name, path)

    def apply(self, manifest: str) -> None:
        """Start it; one of the same name that goes on stays, one that has ended makes room."""
        if self.state():
            self.delete()
        self._commands.require(*self._kubectl, "apply", "-f", "-", text=manifest)

    def delete(self) -> None:
        self._commands.require(
            *self._kubectl, "delete", "jobset", self._name, "--ignore-not-found", "--wait"
        )

    def log(self) -> tuple[str, ...]:
        """The command that follows the first pod of the first slice."""
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self._name,
            "jobset.sigs.k8s.io/job-index": "0",
            "batch.kubernetes.io/job-completion-index": "0",
        }
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        where = (f"--selector={selector}", "--all-containers", "--tail=-1")
        return (*self._kubectl, "logs", *where)

    def follow(self) -> str:
        """Show the log, of every start, until the end; returns the state."""
        while True:
            self._commands.run(*self.log(), "--follow")
            if self._commands.dry_run:
                return "Completed"
            if state := self.state():
                return state
            time.sleep(self._poll_seconds)


def xpk_command(job: Job, cluster: str) -> list[str]:
    """The same run by XPK, on a cluster that XPK made."""
    topology = job.topology
    if topology.chip.name not in XPK_TYPES:
        raise InputError(f"XPK's name of {topology.chip.name} is not known")
    kind = XPK_TYPES[topology.chip.name].format(chips=job.chips, cores=2 * job.chips)
    if topology.is_tpu:
        size = (f"--tpu-type={kind}", f"--num-slices={topology.slices}")
    else:
        size = (f"--device-type={kind}", f"--num-nodes={job.pods}")
    return [
        *("xpk", "workload", "create", f"--workload={job.name}", f"--cluster={cluster}", *size),
        *(f"--docker-image={job.image}", f"--max-restarts={job.max_restarts}"),
        *("--restart-on-exit-codes=75", "--termination-grace-period-seconds=120"),
        f"--command={shlex.join(job.command)}",
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch.gke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--name", required=True, help="of the JobSet")
    add("--image", default="", help="made from launch/Dockerfile, in a registry")
    add("--build", action="store_true", help="first build the image and push it")
    add("--topology", default="", help="as v5e:8x8 or h100:16")
    add("--num_slices", type=int, default=1, help="TPU slices of that shape")
    add("--service_account", default="default", help="that may use the bucket")
    add("--namespace", default="", help="default: kubectl's")
    add("--spot", action="store_true", help="on spot nodes")
    add("--max_restarts", type=int, default=20)
    add("--accelerator", default="", help="GKE's name, where it is not the usual one")
    add("--skip_checks", default="", help="of plan (here) and data (in every pod, first)")
    add("--xpk", metavar="CLUSTER", default="", help="start it by XPK on this cluster instead")
    add("--detach", action="store_true", help="start, but do not follow or delete")
    add("--keep", action="store_true", help="do not delete the JobSet when it is done")
    add("--delete", action="store_true", help="instead: end the run, which saves, and delete it")
    add("--poll_seconds", type=float, default=15.0)
    add("--dry-run", action="store_true", help="print the commands and run none")
    add("command", nargs="*", help="after --: the command")
    return parser.parse_args()


def preflight(options: argparse.Namespace, skipped: Sequence[str]) -> bool:
    """Whether the plan fits, or was not to be asked."""
    if "plan" in skipped:
        return True
    place = (f"--topology={options.topology}", f"--num_slices={options.num_slices}")
    dry_run = ("--dry-run",) if options.dry_run else ()
    command = (sys.executable, "-m", "launch.preflight", "--checks=plan", *place, *dry_run)
    return subprocess.run((*command, "--", *options.command)).returncode == 0


def build(job: Job, commands: Commands) -> None:
    """The image of this checkout, for the topology's accelerator, into its registry."""
    accelerator = "tpu" if job.topology.is_tpu else "cuda12"
    arguments = ("--file=launch/Dockerfile", f"--build-arg=ACCELERATOR={accelerator}")
    commands.require("docker", "build", *arguments, f"--tag={job.image}", ".")
    commands.require("docker", "push", job.image)


def launch(options: argparse.Namespace) -> int:
    """Start what the options say; the exit code."""
    commands = Commands(options.dry_run)
    namespace = (f"--namespace={options.namespace}",) if options.namespace else ()
    jobset = JobSet(options.name, ("kubectl", *namespace), commands, options.poll_seconds)
    if options.delete:
        jobset.delete()
        return 0
    for name in ("image", "topology"):
        if not getattr(options, name):
            raise InputError(f"--{name} is missing: see python -m launch.gke --help")
    if not options.command:
        raise InputError("no command: write it after --, as in -- python -m oner_jax.train ...")
    skipped = options.skip_checks.split(",")
    job = Job(
        name=options.name,
        image=options.image,
        topology=Topology.parse(options.topology, options.num_slices),
        command=options.command,
        check_data="data" not in skipped,
        service_account=options.service_account,
        spot=options.spot,
        max_restarts=options.max_restarts,
        accelerator=options.accelerator,
    )
    if not preflight(options, skipped):
        return EXIT_BAD_INPUT
    if options.build:
        build(job, commands)
    if options.xpk:
        commands.require(*xpk_command(job, options.xpk))
        return 0
    jobset.apply(render(job))
    if options.detach:
        return 0
    where = "".join(f"{word} " for word in namespace)
    end = f"python -m launch.gke --name={options.name} {where}--delete"
    try:
        state = jobset.follow()
        reason = jobset.reason() if state != "Completed" else ""
    except InputError as error:
        raise InputError(
            f"{error}; the JobSet was made and goes on, and this ends it: {end}"
        ) from None
    if state != "Completed":
        print(f"error: {options.name}: {reason}; its log, while it is there:", file=sys.stderr)
        print(f"    {shlex.join(jobset.log())}", file=sys.stderr)
        print(f"it stays on the cluster; this deletes it: {end}", file=sys.stderr)
        return EXIT_FAILED
    if not options.keep:
        jobset.delete()
    return 0


if __name__ == "__main__":
    with streams.steadfast():
        try:
            sys.exit(launch(parse()))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            print("the run goes on: the same command follows it, --delete ends it", file=sys.stderr)
            sys.exit(130)
