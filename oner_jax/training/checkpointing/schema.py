"""What is in a checkpoint: trees of arrays and JSON, read without the run that wrote it."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from logging import LogRecord
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from oner_jax.errors import InputError
from oner_jax.parallel.mesh import path_name

POSITION = "position"


def read_arrays(folder: epath.Path, names: Sequence[str]) -> dict[str, Any]:
    """The trees of a checkpoint's items as NumPy arrays on this process."""
    trees = {}
    with _reader() as reader:
        for name in names:
            tree = _metadata(reader, folder / name)
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            trees[name] = reader.restore(
                folder / name, args=ocp.args.PyTreeRestore(restore_args=on_host)
            )
    return trees


def read_metadata(folder: epath.Path, names: Sequence[str]) -> dict[str, Any]:
    """As `read_arrays`, shapes and types alone."""
    with _reader() as reader:
        return {name: _metadata(reader, folder / name) for name in names}


def read_position(folder: epath.Path) -> dict[str, Any]:
    """Where in the data a checkpoint's run stood."""
    return json.loads((folder / POSITION / "metadata").read_text())


def unreadable(folder: epath.Path, wanted: Mapping[str, Any] | None = None) -> str | None:
    """Why a checkpoint cannot be read in full; None if it can.

    `wanted` are the trees of shapes that it has to have; by default whatever is there, and
    parameters.
    """
    names = list(wanted) if wanted is not None else _names(folder)
    try:
        for name in names:  # one at a time: together they need as much memory as a run
            tree = read_arrays(folder, [name])[name]
            if wanted is not None:
                check_same_arrays(folder, tree, wanted[name])
        read_position(folder)
    except Exception as error:  # whatever the libraries make of damaged files
        return " ".join(f"it cannot be read ({error})".split())[:300]
    return None if "parameters" in names else "it has no parameters"


def check_same_arrays(folder: epath.Path, held: Any, wanted: Any) -> None:
    """Raise InputError where names or shapes of the arrays held are not those wanted."""
    there, here = (
        {name: tuple(leaf.shape) for name, leaf in by_name(tree).items()} for tree in (held, wanted)
    )
    differing = sorted(name for name in there | here if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise InputError(
            f"{folder} is a checkpoint of another model: {name} is {there.get(name)} there and "
            f"{here.get(name)} here{more}"
        )


def _names(folder: epath.Path) -> list[str]:
    return [path.name for path in folder.iterdir() if (path / "_METADATA").exists()]


def _metadata(reader: ocp.Checkpointer, folder: epath.Path) -> Any:
    found = reader.metadata(folder).item_metadata
    if found is None:
        raise InputError(f"{folder} cannot be read: the metadata of its arrays is not found there")
    return found.tree


@contextlib.contextmanager
def _reader() -> Iterator[ocp.Checkpointer]:
    """Reads trees of arrays; one process of several does so without the others."""
    process = jax.process_index()
    by_itself = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"items_{process}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=by_itself)
    logger = logging.get_absl_logger()
    logger.addFilter(_is_news)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=by_itself) as reader:
            yield reader
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: LogRecord) -> bool:
    """Return False for Orbax's warning that an item lacks what only whole checkpoints have."""
    return not record.getMessage().startswith("Metadata file does not exist")


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by path, which is the same for every kind of container."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def like(structure: Any, tree: Any) -> Any:
    """The leaves of `tree`, by their paths, in the containers of `structure`."""
    leaves = by_name(tree)
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], structure)
