"""A file as pyarrow reads it."""

import os

from jest_loader.adapters.blocks.open_file import OpenFile

_PIECE_BYTES = 1 << 26  # The kernel reads less than 2 GiB in one call.


class ByteFile:
    """The bytes of a file that is open, as a Python file object that only reads.

    It never makes room for more bytes than the file has, whatever is asked for.

    Args:
        file: The file.
    """

    closed = False

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.failed: Exception | None = None
        """What reading the file raised."""
        self._place = 0

    def read(self, size: int = -1) -> memoryview:
        """The next ``size`` bytes, or as many as there are; raises what reading them raises."""
        left = max(0, len(self.file) - self._place)
        room = memoryview(bytearray(left if size < 0 else min(size, left)))
        offsets = range(0, len(room), _PIECE_BYTES)
        pieces = [room[offset : offset + _PIECE_BYTES] for offset in offsets]
        try:
            self.file.read_into(pieces, [self._place + offset for offset in offsets])
        except Exception as error:
            self.failed = error
            raise
        self._place += len(room)
        return room.toreadonly()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``io.IOBase.seek``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self.file)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        """See ``io.IOBase.tell``."""
        return self._place

    def readable(self) -> bool:
        """See ``io.IOBase.readable``."""
        return True

    def close(self) -> None:
        """Nothing: the file is closed once nobody uses it."""
