"""What arrives of a file: held to a length, not in silence; and an attempt that failed."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SILENCE_S = 60.0
_LEAST_BYTES = 1 << 16  # Less in SILENCE_S counts as silence.
PASSING = {408, 416, 425, 429}  # Client errors that another attempt may not meet.


class NotFetched(Exception):
    """An attempt that failed.

    Args:
        reason: Why, for the message.
        final: Whether another attempt would fail in the same way.
        wait_s: How long the server asks to wait before the next one.
        status: The HTTP status of its answer, if that is the reason.
    """

    def __init__(
        self, reason: str, *, final: bool = False, wait_s: float = 0.0, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.final = final
        self.wait_s = wait_s


@dataclass(frozen=True)
class FileRange:
    """Some bytes of a remote file.

    Args:
        data: The bytes; fewer than asked for where the file ends before.
        num_bytes: How many the whole file has.
        version: What the server calls the file's present content, if it does.
    """

    data: bytes
    num_bytes: int
    version: str | None


class PartFile:
    """A file that is being fetched: it takes no more bytes than it may have.

    Args:
        path: The file to write.
        most_bytes: The most that it may have.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.most_bytes = most_bytes

    def write(self, file: IO[bytes], block: bytes) -> None:
        """Append a block.

        Raises:
            NotFetched: if the file would be too long, or the disk is full.
        """
        self.check(file.tell() + len(block))
        left = memoryview(block)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise NotFetched(
                f"{self.path} cannot be written ({error.strerror}); make room, or choose another "
                "local folder",
                final=True,
            ) from error

    def copy(self, blocks: Iterable[bytes], file: IO[bytes]) -> None:
        """Append what arrives.

        Raises:
            NotFetched: if the file would be too long, hardly anything arrives, or the disk is full.
        """
        since, arrived = time.monotonic(), 0
        for block in blocks:
            self.write(file, block)
            arrived += len(block)
            if time.monotonic() - since > SILENCE_S:
                if arrived < _LEAST_BYTES:
                    raise NotFetched(f"only {arrived} bytes arrived in {SILENCE_S:.0f} s")
                since, arrived = time.monotonic(), 0

    def check(self, num_bytes: int) -> None:
        """Raise ``NotFetched`` if the file may not have as many bytes."""
        if num_bytes > self.most_bytes:
            raise NotFetched(f"it is longer than the {self.most_bytes} bytes allowed", final=True)
