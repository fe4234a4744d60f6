"""A file that stays open and is read where it is looked at.

It is not mapped into memory, where reading what was cut off a file kills the process (SIGBUS). A
file that is deleted, or that another is renamed over, stays as it was for whoever has it open. One
that is written into shows another size or time of change, which is looked at after each reading.
"""

import errno
import os
import weakref
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from jest_loader.files import open_regular

_BLOCK_BYTES = 1 << 20


class Stamp(NamedTuple):
    """Identifies a file and its content: a change of the file changes the stamp."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class OpenFile:
    """The bytes of a file, open as long as this object is in use.

    Args:
        path: The file.
        in_part: Whether only small parts of it will be looked at.

    Raises:
        OSError: if it cannot be opened, or is no regular file.
    """

    def __init__(self, path: Path, *, in_part: bool = False) -> None:
        self.path = path
        self._descriptor = _opened(path)
        weakref.finalize(self, os.close, self._descriptor)
        self.stamp = self._stamp()
        if hasattr(os, "posix_fadvise"):  # not on macOS
            # Rows are looked at in any order, which would read a file page by page.
            advice = os.POSIX_FADV_RANDOM if in_part else os.POSIX_FADV_WILLNEED
            os.posix_fadvise(self._descriptor, 0, 0, advice)

    def __len__(self) -> int:
        """Bytes."""
        return self.stamp.size

    def read_into(self, pieces: list[memoryview], starts: list[int]) -> None:
        """See ``Stored``.

        Raises:
            ValueError: if the file was written to since it was opened.
            OSError: if it cannot be read.
        """
        try:
            num_read = sum(map(os.preadv, repeat(self._descriptor), zip(pieces), starts))
        except OSError as error:
            raise OSError(error.errno, f"shard {self.path} cannot be read: {error}") from error
        now = self._stamp()
        # Deleting or linking a file changes ``changed_ns``, and not what the file holds.
        if num_read < sum(map(len, pieces)) or now[1:3] != self.stamp[1:3]:
            raise ValueError(
                f"shard {self.path} was written to while it was in use (it had {self.stamp.size} "
                f"bytes and now has {now.size}); start again, and replace a file by renaming "
                "another over it"
            )

    def blocks(self) -> Iterator[memoryview]:
        """All bytes, block by block, each of which overwrites the last.

        It raises what ``read_into`` raises.
        """
        room = memoryview(bytearray(min(_BLOCK_BYTES, len(self))))
        for start in range(0, len(self), _BLOCK_BYTES):
            block = room[: len(self) - start]
            self.read_into([block], [start])
            yield block

    def content(self) -> memoryview:
        """All bytes, in memory; it raises what ``read_into`` raises."""
        room = memoryview(bytearray(len(self)))
        starts = list(range(0, len(self), _BLOCK_BYTES))
        self.read_into([room[start : start + _BLOCK_BYTES] for start in starts], starts)
        return room.toreadonly()

    def _stamp(self) -> Stamp:
        found = os.fstat(self._descriptor)
        return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _opened(path: Path) -> int:
    try:
        return open_regular(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            errno.EMFILE,
            f"shard {path} cannot be opened, since this process has as many files open as it "
            "may; raise that limit (ulimit -n), lower window_rows or write larger shards",
        ) from error
