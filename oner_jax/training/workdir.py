"""The folder of a run: what it was made from, and that it is continued as the same run.

config.json     the resolved config; config-until-step-N.json one that was extended at step N
manifest.json   command, revision, package versions, mesh, devices, parameters, data, preflight
lock.json       which process is at work in it
metrics.jsonl   one object a log step, beside TensorBoard event files
damaged.jsonl   one object for every damaged record that was replaced, if there were any
goodput.json    seconds by category, over all restarts
rolled_back.jsonl  what it held of steps that the run went back over, if it ever did
checkpoints/    Orbax
eval/, report/  written by `oner_jax.evaluate`
"""

import contextlib
import json
import math
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.files import write_whole
from oner_jax.models.pretraining import Parameters
from oner_jax.parallel import distributed
from oner_jax.parallel.likeness import PACKAGES, version
from oner_jax.parallel.mesh import path_name
from oner_jax.parallel.preflight import Preflight
from oner_jax.training import identity
from oner_jax.training.checkpointing.lock import LOCK_FILE, Lock, token_in
from oner_jax.training.storage import orbax_path, writing

# Our choice: contrastive pretraining on small sets is past its best long before.
MANY_EPOCHS = 100

# How long it may take until a host sees what another one has written.
_SEEN_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def hold_workdir(
    workdir: epath.Path, config: ConfigDict, data: Mapping[str, Any]
) -> Iterator[Lock | None]:
    """Make `workdir` with its config, or check that it holds a run of the same config on the same
    data (as checkpoints describe them); inside, no other run may have it. Process 0 does so, and
    has the lock, for all processes of the run.

    Raises InputError where it holds another run, naming the keys that differ, or something else,
    and where a run is going on in it, naming that; where its path is one from which checkpoints
    cannot be read back, and where processes do not share it.
    """
    orbax_path(workdir)
    if not distributed.is_main():
        _require_shared(workdir, distributed.from_main("workdir", str))
        distributed.wait_for_all("workdir is shared")
        yield None
        return
    extended: ConfigDict | None = None
    if (workdir / "config.json").exists():
        lines, extended = identity.require_same_run(workdir, config, data)
        print(*lines, sep="\n", end="\n" * bool(lines), flush=True)
    elif workdir.exists() and (not workdir.is_dir() or _holds_something(workdir)):
        raise InputError(f"{workdir} exists and holds no run: choose a new or empty --workdir")
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(Lock(workdir))
            if extended is not None:
                kept = workdir / f"config-until-step-{extended.total_steps}.json"
                write_whole(kept, configuration.to_json(extended))
            write_whole(workdir / "config.json", configuration.to_json(config))
        except OSError as error:
            raise InputError(f"{workdir} cannot be written to: {error.strerror}") from None
        distributed.from_main("workdir", lambda: lock.token)
        # A short run would end, and take its lock away, before a slow process has looked for it.
        distributed.wait_for_all("workdir is shared")
        yield lock


def _require_shared(workdir: epath.Path, token: str) -> None:
    """Raise InputError where the lock of process 0 is not in what this process has as `workdir`.

    Every process writes its part of a checkpoint. Network storage may show a file a while later.
    """
    deadline = time.monotonic() + _SEEN_SECONDS
    while token_in(workdir) != token:
        if time.monotonic() > deadline:
            raise InputError(
                f"{workdir} on {socket.gethostname()} is not the folder of that name in which "
                "process 0 works: give a --workdir on storage that all hosts share"
            )
        time.sleep(_POLL_SECONDS)


def _holds_something(workdir: epath.Path) -> bool:
    """Whether there is more in it than the lock of a run that ended before it began."""
    return any(not path.name.startswith(LOCK_FILE) for path in workdir.iterdir())


def write_manifest(
    workdir: epath.Path,
    *,
    command: str,
    mesh: Mesh,
    parameters: Parameters,
    data: Mapping[str, Any],
    preflight: Preflight | None,
) -> None:
    """What a later reader needs to know of this run beyond its config."""
    manifest = {
        "command": command,
        "revision": revision(),
        "packages": {name: version(name) for name in PACKAGES},
        "devices": [str(device) for device in mesh.devices.flat],
        "device_kind": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "parameters": {name: list(shape) for name, shape in parameter_table(parameters)},
        "data": dict(data),
        "preflight": None if preflight is None else preflight.to_json(),
    }
    with writing(workdir / "manifest.json"):
        write_whole(workdir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def parameter_table(parameters: Parameters) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters)
    return [(path_name(path), tuple(leaf.shape)) for path, leaf in leaves]


def describe_parameters(parameters: Parameters) -> str:
    """Return a table of every parameter array: its name, its shape and its size."""
    table = parameter_table(parameters)
    width = max(len(name) for name, _ in table)
    return "\n".join(
        f"{name:<{width}}  {' x '.join(map(str, shape)) or '1':>18}  {math.prod(shape):>12,}"
        for name, shape in table
    )


def describe(
    config: ConfigDict,
    parameters: Parameters,
    mesh: Mesh,
    data: Mapping[str, Any],
    first_step: int,
) -> str:
    """Return what is printed at the start: parameters, devices, data and the run's length."""
    table = parameter_table(parameters)
    counts = {
        part: sum(math.prod(shape) for name, shape in table if name.startswith(part))
        for part in ("", "backbone/inputs", "backbone/tower", "backbone/projector")
    }
    total, inputs, tower, projector = counts.values()
    heads = total - inputs - tower - projector
    kinds = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    examples = config.total_steps * config.batch_size
    begun = f", continuing at step {first_step}" if first_step else ""
    return "\n".join(
        [
            f"parameters  {total:,}: inputs {inputs:,}, tower {tower:,}, projector {projector:,}, "
            f"heads for training only {heads:,}",
            f"devices     {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {kinds}",
            *_data_lines(config, data),
            *(f"evaluation  {name}: {split}" for name, split in config.data.evaluation.items()),
            f"run         {config.total_steps:,} steps of {config.batch_size:,} pairs = "
            f"{examples / data['records']:,.1f} epochs{begun}",
        ]
    )


class _Shown(NamedTuple):
    """A split that is trained on: its share among those of its kind, how often the run shows it."""

    name: str
    kind: str
    records: int
    share: str
    epochs: float


def _shown_splits(config: ConfigDict, data: Mapping[str, Any]) -> Iterator[_Shown]:
    for key, size in (
        ("train", config.batch_size),
        ("image_only", config.data.image_only_batch_size),
        ("text_only", config.data.text_only_batch_size),
    ):
        splits = data.get(key, {})
        records = sum(split["records"] for split in splits.values())
        weights = sum(split.get("weight", split["records"]) for split in splits.values())
        for name, split in splits.items():
            share = split.get("weight", split["records"]) / weights
            epochs = share * config.total_steps * size / split["records"]
            kind = "pairs" if key == "train" else key.replace("_", " ")
            part = f", {share:.1%} of {records:,}" if len(splits) > 1 else ""
            yield _Shown(name, kind, split["records"], part, epochs)


def _data_lines(config: ConfigDict, data: Mapping[str, Any]) -> Iterator[str]:
    title = "data"
    for split in _shown_splits(config, data):
        yield (
            f"{title:<12}{split.name}: {split.records:,} {split.kind}{split.share}, "
            f"{split.epochs:,.1f} epochs"
        )
        title = ""


def too_many_epochs(config: ConfigDict, data: Mapping[str, Any]) -> list[str]:
    """Return a warning for every split that the run shows more than `MANY_EPOCHS` times."""
    key = "total_epochs" if config.total_epochs else "total_steps"
    warnings = []
    for split in _shown_splits(config, data):
        if split.epochs > MANY_EPOCHS:
            fewer = config[key] * MANY_EPOCHS / split.epochs
            value = f"{fewer:.3g}" if config.total_epochs else f"{max(1, int(fewer))}"
            warnings.append(
                f"warning: the run shows {split.name} {split.epochs:,.0f} times, and after about "
                f"{MANY_EPOCHS} a model only learns it by heart: add data, or end sooner with "
                f"--config.{key}={value}"
            )
    return warnings


def command_line(program: str) -> str:
    """What was said to this process to start it, as a shell reads it."""
    return shlex.join(["python", "-m", program, *sys.argv[1:]])


def revision() -> str:
    """Git revision of the source, with "+" where files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
