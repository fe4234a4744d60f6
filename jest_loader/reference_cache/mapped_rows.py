"""Rows of an array that lies in many files, gathered by one NumPy index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.format import ArrayForm
from jest_loader.reference_cache.held_files import Compare, HeldFiles


class MappedRows:
    """The rows of an array where they lie in its chunk files; ``rows[index]`` copies some of them.

    The files are mapped into memory. A row in a random chunk each, a loop over chunks would cost
    more than the copying. So one array is laid over all addresses from the lowest mapping to the
    end of the highest, an element at each multiple of the item size, and one index gathers from it.
    Only addresses within the mappings are ever computed: callers check row numbers.

    Args:
        files: The chunk files, each of ``form.chunk_bytes``.
        form: How the array is stored.
        compare: As for ``HeldFiles``, of a chunk.

    Raises:
        OSError: if a file cannot be mapped.
    """

    def __init__(self, files: Sequence[Path], form: ArrayForm, compare: Compare) -> None:
        self.shape = (form.num_rows, *form.row_shape)
        self.dtype = form.dtype
        self._chunk_rows = form.chunk_rows
        self._row_items = int(np.prod(form.row_shape, dtype=int))
        self._held = HeldFiles(files, form.chunk_bytes, compare)
        pointers = [mapping.data_ptr() for mapping in self._held.mappings]
        addresses = np.array(pointers, dtype=np.int64)
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
            ValueError: if a chunk that holds one of them is not what was written, or was cut short.
        """
        chunk, row = np.divmod(rows, self._chunk_rows)
        self._held.check(np.flatnonzero(np.bincount(chunk)).tolist())
        found: NDArray[Any] = self._rows_anywhere[self._first_items[chunk] + row * self._row_items]
        return found


class _Interface:
    """The attribute through which NumPy lays an array over addresses."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface
