"""Blocks of a file, a few of which are read at a time."""

from jest_loader.adapters.tar.fields import BLOCK_BYTES
from jest_loader.ragged import Stored

_WINDOW_BYTES = 4096  # A text's header, itself and the next header are often within a page.


class FileBlocks:
    """Blocks of a file, of which a few are read at a time.

    Args:
        data: The file.
    """

    def __init__(self, data: Stored) -> None:
        self._data = data
        self._room = memoryview(bytearray(_WINDOW_BYTES))
        self.content = b""  # What was read,
        self.first = 0  # and where it begins.

    def at(self, place: int) -> bytes:
        """The block at a place; nothing where the file has no whole block left."""
        start = place - self.first
        if start < 0 or start + BLOCK_BYTES > len(self.content):
            size = min(_WINDOW_BYTES, len(self._data) - place)
            if size < BLOCK_BYTES:
                return b""
            self._data.read_into([self._room[:size]], [place])
            self.content, self.first, start = bytes(self._room[:size]), place, 0
        return self.content[start : start + BLOCK_BYTES]
