"""Rows of an array that lies in many files, gathered by one NumPy index."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.format import ArrayForm

Check = Callable[[int, memoryview], None]


class MappedRows:
    """The rows of an array where they lie in its chunk files; ``rows[index]`` copies some of them.

    The files are mapped into memory. A row in a random chunk each, a loop over chunks would cost
    more than the copying. So one array is laid over all addresses from the lowest mapping to the
    end of the highest, an element at each multiple of the item size, and one index gathers from it.
    Only addresses within the mappings are ever computed: callers check row numbers.

    Args:
        files: The chunk files, each of ``form.chunk_bytes``. They may be deleted or replaced while
            they are mapped, not cut short.
        form: How the array is stored.
        check: Called once for each chunk, with its number and content, before its first row is
            copied; raises ``ValueError`` if that is not what was written.

    Raises:
        OSError: if a file cannot be mapped.
    """

    def __init__(self, files: Sequence[Path], form: ArrayForm, check: Check) -> None:
        self._check = check
        self._unchecked = np.ones(len(files), dtype=bool)
        self._all_checked = False
        self.shape = (form.num_rows, *form.row_shape)
        self.dtype = form.dtype
        self._chunk_rows = form.chunk_rows
        self._row_items = int(np.prod(form.row_shape, dtype=int))
        # These keep the mappings, and no file descriptors, which np.memmap would.
        self._mappings = [_mapped(file, form.chunk_bytes) for file in files]
        addresses = np.array([mapping.data_ptr() for mapping in self._mappings], dtype=np.int64)
        base = int(addresses.min())
        item = form.dtype.itemsize
        self._first_items: Int64Array = (addresses - base) // item  # Pages are aligned to items.
        num_items = int(self._first_items.max()) + form.chunk_rows * self._row_items
        self._rows_anywhere = np.asarray(
            _Interface(
                {
                    "version": 3,
                    "data": (base, True),
                    "typestr": form.dtype.str,
                    "shape": (num_items - self._row_items + 1, *form.row_shape),
                    "strides": (item,) * (1 + len(form.row_shape)),
                }
            )
        )

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __getitem__(self, rows: Int64Array) -> NDArray[Any]:
        """The rows (int64 [n], in [0, len)), as [n, *row_shape]: a copy.

        Raises:
            ValueError: if a chunk that holds one of them is not what was written.
        """
        chunk, row = np.divmod(rows, self._chunk_rows)
        if not self._all_checked:
            self._check_chunks(chunk)
        found: NDArray[Any] = self._rows_anywhere[self._first_items[chunk] + row * self._row_items]
        return found

    def _check_chunks(self, chunks: Int64Array) -> None:
        for number in np.unique(chunks[self._unchecked[chunks]]).tolist():
            self._check(number, self._mappings[number].numpy().data)
            self._unchecked[number] = False
        self._all_checked = not self._unchecked.any()


class _Interface:
    """The attribute through which NumPy lays an array over addresses."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _mapped(file: Path, num_bytes: int) -> torch.Tensor:
    try:
        return torch.from_file(str(file), shared=False, size=num_bytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(
            f"the chunk files of a reference cache must be mapped into memory, but {file} cannot "
            f"be ({str(error).splitlines()[0]}); put the cache on a local disk, or build it with "
            "larger chunks"
        ) from error
