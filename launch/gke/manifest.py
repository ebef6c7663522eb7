"""The JobSet of a run on GKE, from the templates beside this file."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from oner_jax.errors import InputError
from oner_jax.planning.topology import Topology

# What GKE calls a chip in node labels.
ACCELERATORS = {
    "v3": "tpu-v3-slice",
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "7x": "tpu7x",
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
PORT = 8476
_NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 63


@dataclasses.dataclass(frozen=True)
class Job:
    """A run on GKE. `command` is what would run on a laptop."""

    name: str
    image: str
    topology: Topology
    command: Sequence[str]
    check_data: bool = True
    service_account: str = "default"
    spot: bool = False
    max_restarts: int = 20
    accelerator: str = ""

    def __post_init__(self) -> None:
        if self.topology.chip.name not in ACCELERATORS and not self.accelerator:
            raise InputError(f"GKE's name of {self.topology.chip.name} is not known: --accelerator")
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"--name={self.name}: Kubernetes takes small letters a to z, digits and dashes, a "
                "letter first and no dash last"
            )
        longest = f"{self.name}-slice-{self.topology.slices - 1}-{self.pods - 1}-xxxxx"
        if (excess := len(longest) - _LONGEST_NAME) > 0:
            raise InputError(
                f"--name={self.name}: {excess} characters too long: its pods are called {longest}, "
                f"and Kubernetes takes {_LONGEST_NAME}"
            )

    @property
    def pods(self) -> int:
        """Of one slice: its hosts."""
        return self.topology.hosts // self.topology.slices

    @property
    def chips(self) -> int:
        """Of one slice."""
        return self.topology.chips // self.topology.slices


def render(job: Job) -> str:
    """The manifest, as YAML with the template's comments."""
    kind = "tpu" if job.topology.is_tpu else "gpu"
    template = Template((Path(__file__).parent / f"{kind}.yaml").read_text())
    values = {name: json.dumps(value) for name, value in _values(job).items()}
    return template.safe_substitute(values)  # safe: the comment on top speaks of ${...}


def _values(job: Job) -> Mapping[str, Any]:
    topology = job.topology
    place = [] if topology.is_tpu else _place(job)
    return {
        "name": job.name,
        "max_restarts": job.max_restarts,
        "num_slices": topology.slices,
        "hosts": job.pods,
        "host_chips": job.chips // job.pods,
        "image": job.image,
        "command": [*escaped(job.command), *place],
        "service_account": job.service_account,
        "node_selector": _node_selector(job),
        "tolerations": _tolerations(job),
        "init_containers": _init_containers(job),
    }


def escaped(command: Sequence[str]) -> list[str]:
    """For a container's command, in which Kubernetes replaces `$(NAME)` and takes `$$` for `$`."""
    return [word.replace("$", "$$") for word in command]


def _place(job: Job) -> list[str]:
    """The flags of several hosts; a pod knows its number."""
    return [
        f"--coordinator_address={job.name}-slice-0-0.{job.name}:{PORT}",
        f"--num_processes={job.pods}",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]


def _node_selector(job: Job) -> dict[str, str]:
    name = job.accelerator or ACCELERATORS[job.topology.chip.name]
    if job.topology.is_tpu:
        shape = "x".join(map(str, job.topology.shape))
        selector = {
            "cloud.google.com/gke-tpu-accelerator": name,
            "cloud.google.com/gke-tpu-topology": shape,
        }
    else:
        selector = {"cloud.google.com/gke-accelerator": name}
    return selector | ({"cloud.google.com/gke-spot": "true"} if job.spot else {})


def _tolerations(job: Job) -> list[dict[str, str]]:
    keys = ["google.com/tpu" if job.topology.is_tpu else "nvidia.com/gpu"]
    keys += ["cloud.google.com/gke-spot"] if job.spot else []
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def _init_containers(job: Job) -> list[dict[str, Any]]:
    """The check of the data, where they are seen as training will see them."""
    if not job.check_data:
        return []
    check = ["python", "-m", "launch.preflight", "--checks=data", f"--topology={_single(job)}"]
    return [
        {
            "name": "check-data",
            "image": job.image,
            "command": escaped([*check, "--", *job.command]),
        }
    ]


def _single(job: Job) -> Topology:
    """One slice, as `--topology` takes it."""
    return dataclasses.replace(job.topology, slices=1)
