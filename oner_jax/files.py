"""Files that appear whole, local or on object storage (gs://)."""

import os
import uuid

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is on object storage: no append, no rename, objects appear whole."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Return `path` from the root of its storage, links not followed.

    `epath.Path.resolve` makes a folder `./gs:` of an address on object storage.
    """
    return epath.Path(path) if is_remote(path) else epath.Path(os.path.abspath(path))


def split_names(text: str) -> list[str]:
    """Return the names in a list with commas, each perhaps with `@STEP` or `=WEIGHT` behind it.

    A name that has commas itself stays whole where a file or folder on this machine has it.
    """
    pieces, names = text.split(","), []
    while pieces:
        joined = (",".join(pieces[:count]).strip() for count in range(len(pieces), 1, -1))
        names.append(next(filter(_names_something, joined), pieces[0].strip()))
        pieces = pieces[names[-1].count(",") + 1 :]
    return names


def _names_something(name: str) -> bool:
    paths = (name, name.rpartition("@")[0], name.rpartition("=")[0])
    return not is_remote(name) and any(path and epath.Path(path).exists() for path in paths)


def write_whole(path: epath.PathLike, content: str | bytes) -> None:
    """Write so that a reader never sees half a file: under another name first, then renamed.

    Several processes, on several hosts, may write the same file. Raises OSError, and then leaves
    what was there.
    """
    path = epath.Path(path)
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
