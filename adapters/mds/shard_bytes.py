"""The bytes of a shard."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jest_loader.adapters.blocks.open_file import OpenFile
from jest_loader.checks import shown
from jest_loader.ragged import RaggedBytes


@dataclass(frozen=True)
class ShardBytes:
    """The bytes of a shard, decompressed.

    Args:
        path: The file that they come from, for messages.
        data: The open file that has them, or a copy in memory, read-only.
    """

    path: Path
    data: OpenFile | memoryview

    @property
    def in_memory(self) -> bool:
        """Whether holding the bytes costs memory."""
        return isinstance(self.data, memoryview)

    def head(self, num_bytes: int) -> memoryview:
        """The first bytes.

        Raises:
            ValueError: if there are not as many, or their file was written to.
            OSError: if they cannot be read.
        """
        return RaggedBytes.within(self.data, np.zeros(1, np.int64), np.array([num_bytes])).view(0)

    def not_decoded(self, error: Exception) -> ValueError:
        """The error to raise where ``error`` shows that the bytes are no shard."""
        return ValueError(
            f"{shown(self.path)} cannot be decoded: {shown(repr(error))}; fetch it again"
        )
