"""The members of a tar archive, whatever state it is in: nothing is extracted or followed.

The tarfile module takes a damaged header for the end of the archive, and so would drop what follows
without a word. Here reading goes on at the next header that is whole, and the gap is reported.
"""

import dataclasses
import gzip
import io
import tarfile
import zlib
from collections.abc import Generator, Iterator

from oner_jax.data.sources.raw import Reason

_BLOCK_BYTES = tarfile.BLOCKSIZE
_SCAN_BYTES = 2**20
# More than any picture; what claims to be larger is not read into memory.
_MAXIMUM_MEMBER_BYTES = 2**30

# What tarfile and gzip answer damaged bytes with. No other OSError, which is the disk's.
_DAMAGE_ERRORS = (
    tarfile.TarError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    MemoryError,
    zlib.error,
    gzip.BadGzipFile,
)


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in the archive."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Damage:
    """What stands in the archive instead of a file, or that it ends too early. `name` if known."""

    name: str
    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True)
class _Stop:
    """Where reading members one after another came to an end, and whether at a broken entry."""

    position: int
    broken: bool = False


@dataclasses.dataclass(frozen=True)
class _Gap:
    """What lies before the next header; `header` is None where no other follows.

    `ends` says that it begins with the zeros that end an archive.
    """

    header: int | None
    damaged: bool
    ends: bool


def read_members(file: io.BufferedIOBase, size_bytes: int | None) -> Iterator[Member | Damage]:
    """All members in order. Several archives in one file are read like one.

    `size_bytes` is the file's size, None if that is unknown (compressed). OSError if the file
    cannot be read, which damage in it is no reason for.
    """
    stop: _Stop | None = _Stop(0)
    while stop is not None:
        try:
            gap = _gap(file, stop.position)
        except _DAMAGE_ERRORS as error:
            yield Damage("", Reason.TRUNCATED_ARCHIVE, f"after byte {stop.position}: {error}")
            return
        if gap.header is None:
            if stop.broken or gap.damaged:
                detail = f"nothing after byte {stop.position} can be read"
                yield Damage("", Reason.TRUNCATED_ARCHIVE, detail)
            elif not gap.ends and stop.position:
                yield Damage("", Reason.TRUNCATED_ARCHIVE, "ends without the mark of its end")
            return
        if stop.broken or gap.damaged:
            detail = f"bytes {stop.position} to {gap.header} are no entry"
            yield Damage("", Reason.BROKEN_ENTRY, detail)
        stop = yield from _members_from(file, gap.header, size_bytes)


def _members_from(
    file: io.BufferedIOBase, start: int, size_bytes: int | None
) -> Generator[Member | Damage, None, _Stop | None]:
    """The members from a header on; returns where they stop, None at the end of the file."""
    position = start
    tar = None
    while True:
        try:
            if tar is None:
                file.seek(start)
                tar = tarfile.TarFile(fileobj=file, encoding="utf-8")
            member = tar.next()
        except _DAMAGE_ERRORS:
            return _Stop(position + _BLOCK_BYTES, broken=True)
        if member is None:
            # Where the header could be read, it is one of those that tarfile has no use for.
            return _Stop(tar.offset) if tar.offset > start else _Stop(start + _BLOCK_BYTES, True)
        if tar.offset <= position:  # the size is negative
            return _Stop(position + _BLOCK_BYTES, broken=True)
        tar.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
        position = tar.offset
        if member.isdir():
            continue
        if problem := _problem(member):
            yield Damage(member.name, Reason.BROKEN_ENTRY, problem)
            continue
        content = _content(file, member, size_bytes)
        if len(content) < member.size:
            detail = f"{len(content)} of its {member.size} bytes are there"
            yield Damage(member.name, Reason.TRUNCATED_ARCHIVE, detail)
            return None
        yield Member(member.name, content)


def _problem(member: tarfile.TarInfo) -> str:
    """Why a member is left alone; empty if it is a file like any other."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its path leads out of the archive"
    if member.islnk() or member.issym():
        return "is a link"
    if not member.isreg() or member.issparse():
        return f"is no file (type {member.type!r})"
    if not 0 <= member.size <= _MAXIMUM_MEMBER_BYTES:
        return f"has {member.size} bytes"
    return ""


def _content(file: io.BufferedIOBase, member: tarfile.TarInfo, size_bytes: int | None) -> bytes:
    """The member's bytes, or those that there are of them."""
    file.seek(member.offset_data)
    size = member.size
    if size_bytes is not None:  # no memory for what a damaged header claims
        size = min(size, max(size_bytes - member.offset_data, 0))
    try:
        return file.read(size)
    except _DAMAGE_ERRORS:
        return b""


def _gap(file: io.BufferedIOBase, start: int) -> _Gap:
    """What is there from a position, where a header should be, to the next header."""
    file.seek(start)
    damaged = ends = False
    position = start
    while chunk := file.read(_SCAN_BYTES):
        for offset in range(0, len(chunk), _BLOCK_BYTES):
            block = chunk[offset : offset + _BLOCK_BYTES]
            if not block.strip(b"\0"):
                ends = ends or position + offset == start
            elif _is_header(block, expected=position + offset == start):
                return _Gap(position + offset, damaged, ends)
            else:
                damaged = True
        position += len(chunk)
    return _Gap(None, damaged, ends)


def _is_header(block: bytes, expected: bool) -> bool:
    """Whether the block is a header; the oldest format's, which says less, only where expected."""
    if not expected and block[257:262] != b"ustar":
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except _DAMAGE_ERRORS:
        return False
    return True
