"""Files that are mapped into memory, and are to stay as they are."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

Compare = Callable[[int, memoryview], None]


class HeldFiles:
    """Mapped files, each compared with what was written before it is used.

    The mappings need no file descriptors, which ``numpy.memmap`` would. What is deleted or replaced
    stays mapped. A file that was written to in place is compared again; one that was cut would end
    the process by SIGBUS, unless that is noticed before it is touched.

    Args:
        files: The files, each of ``num_bytes``.
        num_bytes: The size of each.
        compare: Called with a file's number and content; raises ``ValueError`` if that is not what
            was written.

    Raises:
        OSError: if a file cannot be mapped.
    """

    def __init__(self, files: Sequence[Path], num_bytes: int, compare: Compare) -> None:
        self._files = [str(file) for file in files]
        self._num_bytes = num_bytes
        self._compare = compare
        self._inodes = [os.stat(file).st_ino for file in self._files]
        self._compared = [-1] * len(files)  # When each that was compared had been written.
        self.mappings = [_mapped(file, num_bytes) for file in self._files]

    def check(self, numbers: Iterable[int]) -> None:
        """Call it before these files are touched.

        Raises:
            ValueError: if one is not what was written, or was cut short.
        """
        for number in numbers:
            written = self._written(number)
            if written != self._compared[number]:
                self._compare(number, self.mappings[number].numpy().data)
                self._compared[number] = written

    def _written(self, number: int) -> int:
        """When a file was written last, ns; of one that has lost its name, nobody writes to it."""
        try:
            found = os.stat(self._files[number])
        except OSError:
            return max(0, self._compared[number])
        if found.st_ino != self._inodes[number]:
            return max(0, self._compared[number])
        if found.st_size != self._num_bytes:
            raise ValueError(
                f"{self._files[number]} must stay as it is while it is used, but has "
                f"{found.st_size} bytes now in place of {self._num_bytes}; put it back, and change "
                "files only by renaming new ones to their names"
            )
        return found.st_mtime_ns


def _mapped(file: str, num_bytes: int) -> torch.Tensor:
    try:
        return torch.from_file(file, shared=False, size=num_bytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(
            f"the files of a reference cache must be mapped into memory, but {file} cannot be "
            f"({str(error).splitlines()[0]}); put the cache on a local disk, or build it with "
            "larger chunks"
        ) from error
