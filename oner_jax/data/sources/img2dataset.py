"""The log that img2dataset keeps of each shard: a Parquet beside it, with all that it tried to get.

What could not be downloaded is in no shard; without the log nobody would know of it.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from oner_jax.data.sources import fields, files
from oner_jax.data.sources.raw import Dropped, RawExample, Reason

SUFFIX = ".parquet"

_COLUMNS = ("key", "status", "error_message")
_SUCCESS = "success"


@dataclasses.dataclass(frozen=True)
class LoggedFailures:
    """What a log says could not be downloaded."""

    log: files.File

    @property
    def name(self) -> str:
        """The log's path."""
        return self.log.path

    @property
    def examples(self) -> int | None:
        """Only reading tells."""
        return None

    def read(self) -> Iterator[RawExample | Dropped]:
        """Dropped entries alone. OSError if the log cannot be opened."""
        yield from missing_entries(self.log, present=None)


def logs_beside(paths: Iterable[str]) -> dict[str, files.File]:
    """For each shard (an archive or a folder) its log, as far as there are any."""
    found: dict[str, files.File] = {}
    listings: dict[str, set[str]] = {}
    for path in paths:
        folder = files.parent(path)
        if folder not in listings:  # a bucket is in none
            inside = files.listed(folder) if files.is_directory(folder or ".") else []
            listings[folder] = {path for path in inside if path.endswith(SUFFIX)}
        log = without_suffix(path) + SUFFIX
        if log in listings[folder]:
            found[path] = files.file_at(log)
    return found


def without_suffix(path: str) -> str:
    """`shards/00000` of `shards/00000.tar`."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".")[0]


def missing_entries(log: files.File, present: set[str] | None) -> Iterator[Dropped]:
    """What the log names and the shard lacks, of which `present` are the keys (None: not known).

    Nothing if it is some other Parquet. A log that cannot be read is an entry, too.
    """
    try:
        with files.open_file(log.path) as file:
            opened = pq.ParquetFile(file)
            if not set(_COLUMNS) <= set(opened.schema_arrow.names):
                return
            rows = opened.read(columns=list(_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        if getattr(error, "errno", None):
            raise
        detail = f"what was not downloaded is not known: {error}"
        yield Dropped(log.path, Reason.TRUNCATED_ARCHIVE, fields.one_line(detail))
        return
    for row in rows:
        location = f"{log.path}: {row['key']}"
        if row["status"] != _SUCCESS:
            detail = fields.one_line(str(row["error_message"] or row["status"]))
            yield Dropped(location, Reason.NOT_DOWNLOADED, detail)
        elif present is not None and row["key"] not in present:
            yield Dropped(location, Reason.TRUNCATED_ARCHIVE, "was downloaded but is not there")
