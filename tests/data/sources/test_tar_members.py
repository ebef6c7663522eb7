import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.sources.raw import Reason
from oner_jax.data.sources.tar_members import Damage, Member, read_members

LONG = "folder/" * 30 + "name.jpg"


def archive(members, tar_format=tarfile.PAX_FORMAT) -> bytes:
    """An archive of files given by name and content, or of other members, by the tarfile module."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def read(content: bytes, known_size: bool = True):
    return list(read_members(io.BytesIO(content), len(content) if known_size else None))


def headers(content: bytes) -> list[tarfile.TarInfo]:
    """The tarfile module's reading of the members' headers."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tar.getmembers()


FILES = [("a.jpg", b"x" * 700), ("ä/🦊.txt", b"text"), ("empty", b""), (LONG, b"y" * 512)]
MEMBERS = [Member(name, content) for name, content in FILES]


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_members_are_those_that_were_written(tar_format):
    assert read(archive(FILES, tar_format)) == MEMBERS
    assert read(archive([], tar_format)) == []


def test_archives_that_follow_one_another_are_read_like_one():
    first, second = archive(FILES[:2]), archive(FILES[2:])
    assert read(first + second) == MEMBERS
    assert read(archive([]) + first + archive([]) + second) == MEMBERS


@given(st.data())
def test_what_is_whole_before_a_cut_is_read_and_the_cut_reported(data):
    content = archive(FILES, tarfile.USTAR_FORMAT)
    offsets = [info.offset_data + info.size for info in headers(content)]
    cut = data.draw(st.integers(1, offsets[-1]))
    known_size = data.draw(st.booleans())
    *members, last = read(content[:cut], known_size)
    assert members == MEMBERS[: sum(offset <= cut for offset in offsets)]
    assert isinstance(last, Damage)
    assert last.reason == Reason.TRUNCATED_ARCHIVE


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_header_costs_its_member_alone(number):
    content = archive(FILES, tarfile.USTAR_FORMAT)
    offset = headers(content)[number].offset
    damaged = content[: offset + 10] + b"\xff" + content[offset + 11 :]
    found = read(damaged)
    assert [item for item in found if isinstance(item, Member)] == [
        member for n, member in enumerate(MEMBERS) if n != number
    ]
    (damage,) = (item for item in found if isinstance(item, Damage))
    assert f"after byte {offset}" in damage.detail or f"bytes {offset} to" in damage.detail


def test_a_size_below_zero_does_not_go_round_in_circles():
    content = bytearray(archive(FILES, tarfile.USTAR_FORMAT))
    header = content[:512]
    header[124:136] = b"\xff" * 11 + b"\x00"  # in base 256, as large files have it
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[:512] = header
    found = read(bytes(content))
    assert isinstance(found[0], Damage)
    assert found[-3:] == MEMBERS[-3:]


def test_a_claim_of_a_large_size_takes_no_memory():
    info = tarfile.TarInfo("bomb.jpg")
    info.size = 2**50
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert [item.reason for item in read(header + b"x" * 1000)] == [
        Reason.BROKEN_ENTRY,
        Reason.TRUNCATED_ARCHIVE,
    ]
    info.size = 2**29
    (cut,) = read(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 1000)
    assert cut.detail == "1000 of its 536870912 bytes are there"


def kinds() -> dict[str, tarfile.TarInfo]:
    made = {}
    for name, kind in {
        "symbolic link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
        "disk": tarfile.BLKTYPE,
    }.items():
        made[name] = tarfile.TarInfo("link.jpg")
        made[name].type = kind
        made[name].linkname = "/etc/passwd"
    for name in ("/etc/passwd", "../up.jpg", "a/../../up.jpg"):
        made[name] = tarfile.TarInfo(name)
    return made


@pytest.mark.parametrize("kind", kinds())
def test_nothing_is_followed(kind):
    found = read(archive([FILES[0], kinds()[kind], tarfile.TarInfo("x"), FILES[1]]))
    assert [type(item) for item in found] == [Member, Damage, Member, Member]
    assert found[1].reason == Reason.BROKEN_ENTRY
    assert found[1].name == kinds()[kind].name


def test_directories_are_no_entries():
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    assert read(archive([folder, *FILES])) == MEMBERS


@given(st.data())
def test_compressed_archives_and_cuts_in_them(data):
    content = gzip.compress(archive(FILES), mtime=0)
    cut = data.draw(st.integers(20, len(content)))
    with gzip.GzipFile(fileobj=io.BytesIO(content[:cut])) as file:
        found = list(read_members(file, None))
    members = [item for item in found if isinstance(item, Member)]
    assert members == MEMBERS[: len(members)]
    assert (len(found) == len(members)) == (cut == len(content))


def test_an_error_of_the_disk_is_no_damage():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(read_members(Broken(archive(FILES)), None))
