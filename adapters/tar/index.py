"""What a tar holds: its examples and their members, in columns."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.tar.fields import BLOCK_BYTES
from jest_loader.adapters.tar.headers import FLAWS
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array

MOST_EXTENSIONS = 1000
"""Kinds of members of a tar."""


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The examples of a tar; some 60 bytes each, and their keys.

    Args:
        starts: Int64 [members], where each begins in the tar, in bytes.
        sizes: Int64 [members], in bytes.
        kinds: Int16 [members], which of ``extensions`` each has.
        flaws: Uint8 [members], which of ``headers.FLAWS`` each has.
        firsts: Int64 [rows + 1], the first member of each example, and one past the last.
        key_ends: Int64 [rows], where each example's key ends in ``keys``.
        keys: All keys, end to end.
        extensions: What follows the first dot of members' names, in lower case.
    """

    starts: Int64Array
    sizes: Int64Array
    kinds: NDArray[np.int16]
    flaws: NDArray[np.uint8]
    firsts: Int64Array
    key_ends: Int64Array
    keys: bytes
    extensions: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """How many examples."""
        return len(self.key_ends)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes of BLAKE2b over all of it."""
        digest = hashlib.blake2b(digest_size=16)
        for column in self.arrays():
            digest.update(np.ascontiguousarray(column).data)
            digest.update(len(column).to_bytes(8))
        digest.update(self.keys)
        digest.update("\0".join(self.extensions).encode())
        return digest.digest()

    def arrays(self) -> list[NDArray[np.generic]]:
        """The arrays, in a fixed order."""
        return [self.starts, self.sizes, self.firsts, self.key_ends, self.kinds, self.flaws]

    def key(self, row: int) -> str:
        """An example's key; bytes that are not UTF-8 are escaped."""
        start = int(self.key_ends[row - 1]) if row else 0
        return self.keys[start : int(self.key_ends[row])].decode(errors="backslashreplace")

    def members_of(self, extensions: tuple[str, ...]) -> Int64Array:
        """Int64 [rows]: each example's member of the first of these extensions that it has, or -1.

        Args:
            extensions: In order of preference.
        """
        found = np.full(self.num_rows, -1, np.int64)
        row_of = np.repeat(np.arange(self.num_rows), np.diff(self.firsts))
        for extension in reversed(extensions):
            if extension in self.extensions:
                members = np.flatnonzero(self.kinds == self.extensions.index(extension))
                found[row_of[members]] = members
        return found

    def check(self, num_bytes: int) -> None:
        """Raise ``ValueError`` unless all numbers are within their bounds.

        Args:
            num_bytes: The tar's size.
        """
        ends = self.key_ends, self.firsts[1:]
        fits = (
            len(self.extensions) <= MOST_EXTENSIONS
            and len(self.firsts) == self.num_rows + 1
            and self.num_rows > 0
            and self.firsts[0] == 0
            and self.firsts[-1] == len(self.starts)
            and (self.starts >= BLOCK_BYTES).all()
            and (self.sizes >= 0).all()
            and (self.starts <= num_bytes).all()
            and (self.sizes <= num_bytes - self.starts).all()
            and (np.diff(ends[0], prepend=0) > 0).all()
            and (np.diff(ends[1], prepend=0) > 0).all()
            and self.key_ends[-1] == len(self.keys)
            and (self.kinds >= 0).all()
            and (self.kinds < len(self.extensions)).all()
            and (self.flaws < len(FLAWS)).all()
        )
        if not fits:
            raise ValueError("an index's numbers must be within its tar, but some are not")

    def named(self, row: int, tar: str) -> str:
        """An example for a message."""
        return f"example '{shown(self.key(row))}' of {shown(tar)}"
