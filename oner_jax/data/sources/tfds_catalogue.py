"""Finding a set that TensorFlow Datasets has prepared, without ever preparing one."""

import os
import posixpath
from typing import Any

from oner_jax.configuration import nearest
from oner_jax.data.sources import fields, files
from oner_jax.errors import InputError

PREFIX = "tfds:"
FILES_OF_A_SET = ("dataset_info.json", "features.json")


def find_builder(source: str, data_dir: str) -> Any:
    """The read-only `tfds.core.DatasetBuilder` of `tfds:NAME`, or of a prepared set's directory.

    `data_dir` is where prepared sets lie; empty: where TFDS keeps them. InputError if the name is
    no set's, or if the set is not there, with the command that prepares it.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming, read_only_builder

    if not source.startswith(PREFIX):
        if data_dir:
            raise InputError(f"--data_dir={data_dir}: is for {PREFIX}NAME; {source} is a directory")
        if not all(files.exists(posixpath.join(source, file)) for file in FILES_OF_A_SET):
            raise InputError(
                f"{source}: is no set that TFDS prepared; name one with "
                f"{' and '.join(FILES_OF_A_SET)}, or {PREFIX}NAME"
            )
        return _loaded(tfds.builder_from_directory, source, source)
    requested = source.removeprefix(PREFIX)
    try:
        name, arguments = naming.parse_builder_name_kwargs(requested)
    except ValueError as error:
        raise InputError(
            f"{source}: is no name of a set; write {PREFIX}NAME, {PREFIX}NAME/CONFIG or "
            f"{PREFIX}NAME:1.2.3"
        ) from error
    if unknown := set(arguments) - {"config", "version"}:
        raise InputError(f"{source}: a prepared set takes no {min(unknown)}; leave it out")
    directory = os.path.expanduser(data_dir) if data_dir else tfds.core.constants.DATA_DIR

    def prepared(name: str) -> Any:
        return read_only_builder.builder_from_files(name, data_dir=directory)

    try:
        return _loaded(prepared, requested, source)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(_not_prepared(str(name), requested, directory)) from error


def _loaded(load: Any, what: str, source: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return load(what)
    except tfds.core.DatasetNotFoundError:
        raise
    except Exception as error:  # of many kinds, for files that are not as TFDS writes them
        reason = fields.one_line(str(error) or type(error).__name__)
        raise InputError(f"{source}: TFDS cannot read it ({reason}); prepare it again") from error


def _not_prepared(name: str, requested: str, directory: str) -> str:
    """What to say of a set that is not there."""
    import tensorflow_datasets as tfds
    from etils import epath

    call = f"tfds.builder({requested!r}, data_dir={directory!r}).download_and_prepare()"
    # Not TFDS's own program: it does not start without Beam.
    prepare = f'prepare it: python -c "import tensorflow_datasets as tfds; {call}"'
    folder = epath.Path(directory) / name
    if folder.is_dir():
        inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        if inside:
            return (
                f"{PREFIX}{requested}: not in {directory}, which has {name} as "
                f"{', '.join(inside)}; name one of these, or {prepare}"
            )
    known = sorted(set(tfds.list_builders(with_community_datasets=False)))
    if name not in known:
        return (
            f"{PREFIX}{requested}: TFDS has no set {name!r}{nearest(name, known)}, "
            f"and none is in {directory}"
        )
    manual = tfds.builder_cls(name).MANUAL_DOWNLOAD_INSTRUCTIONS
    before = (
        f"put what TFDS may not download into {directory}/downloads/manual "
        f"(https://www.tensorflow.org/datasets/catalog/{name}), then "
        if manual
        else ""
    )
    return f"{PREFIX}{requested}: not in {directory}; {before}{prepare}"
