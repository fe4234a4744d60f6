"""The bytes of a shard, mapped into memory or decompressed.

A mapped shard costs address space and no copy, and rows that are not looked at are not read. But if
a file shrinks while it is mapped, reading past its new end kills the process (SIGBUS). So its size
is checked when it is opened and again before each batch is taken from it. Deleting a file, or
renaming another over it, is safe: the mapping keeps the old one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch


class Stamp(NamedTuple):
    """Identifies a file and its content: a change of the file changes the stamp."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True)
class ShardBytes:
    """The bytes of a shard, decompressed.

    Args:
        path: The file that they come from, for messages.
        data: The bytes, read-only.
        stamp: The stamp of the mapped file; None if the bytes are a copy in memory.
    """

    path: Path
    data: memoryview
    stamp: Stamp | None

    @property
    def is_mapped(self) -> bool:
        """Whether holding the bytes costs no memory."""
        return self.stamp is not None

    def check_not_cut(self) -> None:
        """Check that the mapped file has not shrunk, since reading past its end kills the process.

        Raises:
            ValueError: if it has.
        """
        if self.stamp is None:
            return
        try:
            now = stamp_of(self.path)
        except FileNotFoundError:  # deleted, which leaves the mapping whole
            return
        if now.inode == self.stamp.inode and now.size < len(self.data):
            raise ValueError(
                f"shard {self.path} was cut from {len(self.data)} to {now.size} bytes while it was "
                "being read; fetch it again, and replace files by renaming new ones over them"
            )

    def not_decoded(self, error: Exception) -> ValueError:
        """The error to raise where ``error`` shows that the bytes are no shard."""
        return ValueError(f"{self.path} cannot be decoded: {error!r}; fetch it again")


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file as it is now."""
    found = os.stat(path)
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def map_file(path: Path, num_bytes: int) -> tuple[memoryview, bool]:
    """The file's bytes, and whether they are mapped; otherwise they are a copy."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with path.open("rb") as file:
            # Rows are looked at in any order, which would read a file page by page.
            os.posix_fadvise(file.fileno(), 0, num_bytes, os.POSIX_FADV_WILLNEED)
    try:
        # Unlike Python's mmap this keeps no file descriptor; a window could need thousands.
        mapped = torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8)
    except RuntimeError:  # a file system that cannot map, too many mappings, or a file just cut
        return memoryview(path.read_bytes()), False
    return mapped.numpy().data.toreadonly(), True
