"""Members of a tar, read once from front to back, in memory and time that the tar's size bounds."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from jest_loader.checks import shown
from jest_loader.pack.records import SkipError

Content = bytes | SkipError | None
"""What a member holds, why it cannot be read, or None where it is not asked for."""

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"]\x00\x00": lzma.open,
}
_BLOCK_BYTES = 512
_TAIL_BYTES = 1 << 20
_HEADER_BYTES = 1 << 20  # long names and attributes of one member
_INFLATION, _INFLATION_BYTES = 100, 1 << 32  # pictures hardly shrink, text up to tenfold


def tar_members(
    path: Path, most_bytes: Callable[[PurePosixPath], int]
) -> Iterator[tuple[PurePosixPath, Content]]:
    """Names and contents of all members but folders; links are not followed.

    Args:
        path: A tar, compressed by gzip, bzip2 or xz, or not.
        most_bytes: How many bytes to read at most of the member of a name; 0 if it is not wanted.

    Raises:
        ValueError: if it is no tar, damaged, cut short, or far larger than its file once unpacked.
    """
    try:
        with _opened(path) as file:
            stream = _Stream(file)
            tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
            yield from _members(tar, stream, path.stat().st_size, most_bytes)
            stream.left = _TAIL_BYTES
            rest = _rest(tar, stream)
    except Exception as error:  # whatever the parsers raise
        raise ValueError(
            f"a tar must be whole, but {shown(path)} is no tar, or is damaged or cut short "
            f"({shown(error)}); fetch it again"
        ) from error
    if len(rest) < _BLOCK_BYTES or any(rest):
        raise ValueError(
            f"{shown(path)} must end with a tar's end mark, got {len(rest)} other bytes at byte "
            f"{tar.offset}; fetch it again, and do not join tars with cat"
        )


class _Stream:
    """The bytes of a tar, of which ``left`` can be read until it is set again.

    tarfile reads headers of whatever length they give.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header has more than {_HEADER_BYTES} bytes")
        self.left -= size
        return self._file.read(size)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(8)
    for mark, opener in _OPENERS.items():
        if start.startswith(mark):
            opened: IO[bytes] = opener(path)
            return opened
    return path.open("rb")


def _members(
    tar: tarfile.TarFile,
    stream: _Stream,
    num_bytes: int,
    most_bytes: Callable[[PurePosixPath], int],
) -> Iterator[tuple[PurePosixPath, Content]]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # which tarfile would keep
        if member.size < 0:
            raise tarfile.ReadError("the size of a member is negative")
        if tar.offset > _INFLATION * num_bytes + _INFLATION_BYTES:
            raise tarfile.ReadError(
                f"its {num_bytes} bytes are said to hold more than {_INFLATION} times as many"
            )
        if not member.isdir():
            name = PurePosixPath(member.name)
            yield name, _content(tar, stream, member, most_bytes(name))
        stream.left = _HEADER_BYTES


def _content(
    tar: tarfile.TarFile, stream: _Stream, member: tarfile.TarInfo, most_bytes: int
) -> Content:
    if not most_bytes:
        return None
    if not member.isreg():
        return SkipError("a link or a device in the tar (tar --dereference --hard-dereference)")
    if member.issparse():
        return SkipError("a sparse file in the tar (tar without --sparse)")
    if member.size > most_bytes:
        return SkipError(f"a member of more than {most_bytes >> 20} MiB")
    stream.left = member.size
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _rest(tar: tarfile.TarFile, stream: _Stream) -> bytes:
    """What stands where a tar has its end mark and nothing behind it.

    tarfile takes a cut between members and a damaged header for the end, and stops at the first
    end mark of tars that were joined with ``cat``.
    """
    stream.seek(tar.offset)
    return stream.read(_TAIL_BYTES)
