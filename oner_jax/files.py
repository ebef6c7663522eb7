"""Files that appear whole, local or on object storage (gs://)."""

import os
import uuid

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is on object storage: no append, no rename, objects appear whole."""
    return "://" in os.fspath(path)


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
