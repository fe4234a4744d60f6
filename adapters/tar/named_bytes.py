"""The bytes of a tar, whose errors name what was looked at."""

from dataclasses import dataclass

import numpy as np

from jest_loader.adapters.tar.index import TarIndex
from jest_loader.ragged import Stored


@dataclass(frozen=True, eq=False)
class NamedBytes:
    """The bytes of a tar.

    Args:
        data: Where they are read.
        index: What the tar holds.
        name: The tar's.
    """

    data: Stored
    index: TarIndex
    name: str

    def __len__(self) -> int:
        """Bytes."""
        return len(self.data)

    def read_into(self, pieces: list[memoryview], starts: list[int]) -> None:
        """See ``Stored``.

        Raises:
            ValueError: if the tar was written to since it was opened.
            OSError: if it cannot be read.
        """
        try:
            self.data.read_into(pieces, starts)
        except ValueError as error:
            place = min(starts, default=0)
            member = int(np.searchsorted(self.index.starts, place, side="right")) - 1
            row = int(np.searchsorted(self.index.firsts, max(member, 0), side="right")) - 1
            what = self.index.named(row, self.name)
            raise ValueError(f"{what} cannot be read at byte {place}: {error}") from error
