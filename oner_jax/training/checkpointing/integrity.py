"""Whether a checkpoint is whole: checksums, part of its commit, are checked before it is used.

`checksums.json` in the checkpoint's folder lists every file with its size and SHA-256. Orbax's own
step metadata, which the commit itself changes, is left out; it has to be readable JSON.
"""

import concurrent.futures
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from oner_jax.files import write_whole
from oner_jax.training.checkpointing import schema as items

CHECKSUMS = "checksums.json"
_STEP_METADATA = "_CHECKPOINT_METADATA"
# What a commit writes after the checksums.
_COMMIT_FILES = (CHECKSUMS, _STEP_METADATA, "commit_success.txt")
_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = "damaged-"
_READ_BYTES = 1 << 22
_THREADS = 8


def seal(folder: epath.Path) -> None:
    """Write the checksums of the files in `folder`."""
    names = sorted(_files(folder))
    facts = dict(zip(names, _in_threads(_facts, [folder / name for name in names]), strict=True))
    write_whole(folder / CHECKSUMS, json.dumps({"sha256": facts}, indent=1) + "\n")


def damage(folder: epath.Path, item: str = "") -> str | None:
    """What is wrong with a checkpoint, or with one `item` of it; None if it is whole."""
    try:
        json.loads((folder / _STEP_METADATA).read_text())
        expected = _expected(json.loads((folder / CHECKSUMS).read_text()))
    except (ValueError, FileNotFoundError) as error:
        return f"its metadata cannot be read ({' '.join(str(error).split())})"
    names = [name for name in expected if name.startswith(f"{item}/" if item else "")]
    if not names:
        return f"it has no {item or 'files'}"
    found = _in_threads(_facts_if_there, [folder / name for name in names])
    for name, facts in zip(names, found, strict=True):
        if facts is None:
            return f"{name} is missing"
        if facts != expected[name]:
            return f"{name} is not as it was written"
    return None


def latest_whole(directory: epath.Path, steps: Sequence[int]) -> int | None:
    """The latest of `steps` with a whole checkpoint; None if none has, or there are none.

    Damaged ones are moved aside, with a line. One without checksums, of an earlier revision, is
    whole if all of it can be read; it is given its checksums then.
    """
    for step in sorted(steps, reverse=True):
        folder = directory / str(step)
        sealed = (folder / CHECKSUMS).exists()
        problem = damage(folder) if sealed else items.unreadable(folder)
        if problem is None:
            if not sealed:
                seal(folder)
            return step
        aside = _set_aside(folder)
        print(f"checkpoint {step} is damaged: {problem}; moved to {aside}", file=sys.stderr)
    return None


def set_aside_in(directory: epath.Path) -> list[str]:
    """Names of the damaged checkpoints in `directory`."""
    if not directory.exists():
        return []
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(_DAMAGED))


def discard_unfinished(directory: epath.Path) -> None:
    """Delete what a process that was killed while it saved has left."""
    if not directory.exists():
        return
    for path in directory.iterdir():
        begun = _UNFINISHED in path.name or path.name.isdigit()
        if begun and not ocp.utils.is_checkpoint_finalized(path):
            path.rmtree(missing_ok=True)
            print(f"discarded an unfinished save: {path}", file=sys.stderr)


def _set_aside(folder: epath.Path) -> epath.Path:
    """Rename a damaged checkpoint: nothing takes it for one, and nothing of it is lost."""
    name, count = _DAMAGED + folder.name, 1
    while (aside := folder.with_name(name)).exists():
        count += 1
        name = f"{_DAMAGED}{folder.name}-{count}"
    return folder.rename(aside)


def _expected(content: Any) -> dict[str, Any]:
    files = content["sha256"] if isinstance(content, dict) and "sha256" in content else None
    if not isinstance(files, dict):
        raise ValueError(f"{CHECKSUMS} lists no files")
    return files


def _files(folder: epath.Path, under: str = "") -> Iterator[str]:
    """Names relative to `folder` of all files that a commit does not change."""
    for path in (folder / under).iterdir():
        name = f"{under}{path.name}"
        if path.is_dir():
            yield from _files(folder, f"{name}/")
        elif name not in _COMMIT_FILES:
            yield name


def _facts(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "digest": digest.hexdigest()}


def _facts_if_there(path: epath.Path) -> dict[str, Any] | None:
    try:
        return _facts(path)
    except FileNotFoundError:
        return None


def _in_threads(function: Any, paths: list[epath.Path]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, paths))
