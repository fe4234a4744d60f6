"""A file that is being fetched, and an attempt at it that failed."""

from pathlib import Path
from typing import IO


class NotFetched(Exception):
    """An attempt that failed.

    Args:
        reason: Why, for the message.
        final: Whether another attempt would fail in the same way.
        wait_s: How long the server asks to wait before the next one.
    """

    def __init__(self, reason: str, *, final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.final = final
        self.wait_s = wait_s


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

    def check(self, num_bytes: int) -> None:
        """Raise ``NotFetched`` if the file may not have as many bytes."""
        if num_bytes > self.most_bytes:
            raise NotFetched(f"it is longer than the {self.most_bytes} bytes allowed", final=True)
