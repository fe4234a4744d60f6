"""Reads a Zarr group whose arrays share their leading dimension, each array a column.

Blocks follow the chunks (or shards) of the widest column, so that each read is a plain contiguous
slice of whole chunks: ten to a hundred times as fast as reading shuffled rows one by one.

To Zarr a missing chunk is one that was never written, and reads as fill values; whether it was lost
cannot be told. So it is an error, unless the caller says that fill values are meant. Within a shard
it is the shard's own index that says so, which cannot be lost alone.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from itertools import islice
from math import prod
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.blocks import BlockSource, Rows, Scratch, SourceKeywords, Table
from jest_loader.adapters.blocks.columns import Column, choose_columns, join_column
from jest_loader.adapters.blocks.threads import map_in_threads
from jest_loader.adapters.zarr.group import ArrayGroup
from jest_loader.adapters.zarr.over_http import reason
from jest_loader.checks import flag, shown, without_secrets
from jest_loader.ragged import Int64Array

if TYPE_CHECKING:
    import zarr

# Threads that read the blocks of a window. More than two slow each other down on a disk; reading
# over a network they wait most of the time.
_LOCAL_THREADS, _REMOTE_THREADS = 2, 8
_TEXT_KINDS = "OSTU"  # NumPy's kinds of strings and objects, which are delivered as lists
_MOST_BLOCKS = 1 << 24
_LEAST_BLOCK_ROWS = 64  # a block is several chunks if they are smaller
_VARIABLE_ROW_BYTES = 1 << 16  # an assumed size of text and encoded images, for the widest column


class ZarrSource(BlockSource):
    """Batches from a Zarr group, of format 3 or 2.

    Numeric arrays come as NumPy arrays [batch, ...], strings as a list of str, bytes as a list of
    bytes. See ``BlockSource`` for epochs, shuffling and state.

    Args:
        path: A local directory, or a URL that zarr opens through fsspec.
        columns: The arrays to read; None for all that lie directly in the group. Give them where
            the store cannot list what it holds, as over HTTP.
        fill_missing_chunks: Whether chunks that are missing are read as fill values, as Zarr has it
            for those that were never written. In what ``write_zarr`` wrote none may be missing.
        **options: ``batch_size`` and the others of ``SourceOptions``.

    Raises:
        ValueError: if an argument is out of range, ``path`` is no Zarr group, or its arrays do not
            form a table, are damaged, or lack chunks. While iterating: if a chunk is missing,
            cannot be decoded, fails its checksum, or is not the one that ``write_zarr`` wrote.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        fill_missing_chunks: bool = False,
        **options: Unpack[SourceKeywords],
    ) -> None:
        if not isinstance(path, str | PathLike):
            raise ValueError(
                f"path must be a folder or a URL, got {shown(repr(path))}; give it as text or "
                "pathlib.Path"
            )
        fill_missing = flag("fill_missing_chunks", fill_missing_chunks)
        group = ArrayGroup(fspath(path), columns, fill_missing=fill_missing)
        super().__init__(ZarrBlocks(group, columns), **options)


class ZarrBlocks:
    """The rows of a group's arrays, cut into blocks along chunk boundaries.

    Args:
        group: A group.
        columns: The arrays to read; None for all.
    """

    def __init__(self, group: ArrayGroup, columns: Sequence[str] | None) -> None:
        self._path = path = group.path
        self._num_threads = _REMOTE_THREADS if _is_remote(path) else _LOCAL_THREADS
        if not group.arrays:
            raise ValueError(
                f"a group must hold at least one array, but none was found in {path}; open the "
                "group that holds them, and name the columns if its store cannot list them"
            )
        chosen = choose_columns(sorted(group.arrays), columns, path)
        self._arrays = {name: group.arrays[name] for name in chosen}
        self._numeric = {
            name: array
            for name, array in self._arrays.items()
            if array.dtype.kind not in _TEXT_KINDS
        }
        self.column_names = list(self._arrays)
        num_rows = self._num_rows()
        for name in self.column_names:
            group.check_chunks(name)
        widest = max(self._arrays.values(), key=_row_bytes)
        chunk_rows = (widest.shards or widest.chunks)[0]
        self._rows_per_block = chunk_rows * -(-_LEAST_BLOCK_ROWS // chunk_rows)
        num_blocks = -(-num_rows // self._rows_per_block)
        if num_blocks > _MOST_BLOCKS:
            raise ValueError(
                f"a data set must have at most {_MOST_BLOCKS} blocks of {self._rows_per_block} "
                f"rows, but {path} has {num_rows} rows; write it in larger chunks"
            )
        starts = np.arange(0, num_rows, self._rows_per_block)
        self.block_rows: Int64Array = np.minimum(self._rows_per_block, num_rows - starts)
        # Of all arrays, so that it is the same whichever columns are read.
        self.fingerprint = _describe(group)

    def first_rows(self, num_rows: int) -> str:
        """The digest of all rows: Zarr has none of some rows."""
        return self.fingerprint

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given blocks (int64 [n]), each a contiguous slice of each array."""
        starts, sizes = blocks * self._rows_per_block, self.block_rows[blocks]
        stored = list(map(slice, starts.tolist(), (starts + sizes).tolist()))
        ends = sizes.cumsum().tolist()
        places = list(map(slice, [0, *ends], ends))
        whole = self._memory(ends[-1], scratch)
        calls = [
            partial(self._read_block, name, block, whole[name][place] if name in whole else None)
            for name in self.column_names
            for block, place in zip(stored, places, strict=True)
        ]
        parts = iter(map_in_threads(lambda call: call(), calls, self._num_threads))
        read = {name: list(islice(parts, len(stored))) for name in self.column_names}
        return Table(
            {
                name: whole[name] if name in whole else join_column(read[name])
                for name in self.column_names
            }
        )

    def _memory(self, num_rows: int, scratch: Scratch) -> dict[str, NDArray[Any]]:
        """An array of rows for each numeric column, in the processor's byte order."""
        num_bytes = num_rows * sum(map(_row_bytes, self._numeric.values()))
        if num_bytes > (most := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
            raise ValueError(
                f"rows shuffled among each other must fit into memory, but {num_rows} rows of "
                f"{self._path} have {num_bytes} bytes, and it has {most}; set a smaller "
                "window_rows, or fewer columns"
            )
        return {
            name: scratch.array(name, (num_rows, *array.shape[1:]), array.dtype.newbyteorder("="))
            for name, array in self._numeric.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        from jest_loader.adapters.zarr.bounded_codecs import bound_decoding

        self.__dict__ |= state
        for array in self._arrays.values():  # Shards do not keep the bounds in a pickle.
            bound_decoding(array)

    def _read_block(self, name: str, rows: slice, out: NDArray[Any] | None) -> Column:
        """Some rows of an array, read into ``out`` if it is given, else as a new column."""
        from zarr.buffer.cpu import NDBuffer

        array = self._arrays[name]
        try:
            if out is None:
                return _as_column(np.asarray(array[rows]))
            array.get_basic_selection(rows, out=NDBuffer.from_numpy_array(out))
            return out
        except Exception as error:  # stores and codecs raise exceptions of their own
            raise ValueError(
                f"rows {rows.start} to {rows.stop - 1} of array {name!r} in {self._path} cannot be "
                f"read: {shown(without_secrets(reason(error)))}; fetch them again"
            ) from error

    def _num_rows(self) -> int:
        lengths = {
            name: array.shape[0] if array.shape else None for name, array in self._arrays.items()
        }
        if len(set(lengths.values())) > 1 or None in lengths.values():
            raise ValueError(
                f"all columns must have the same number of rows, but in {self._path} they have "
                f"{shown(lengths, most=1000)}; choose those that belong together with columns=[...]"
            )
        num_rows = next(iter(lengths.values()))
        if not num_rows:
            raise ValueError(
                f"a data set must hold at least one row, but {self._path} holds none; write it "
                "again"
            )
        return num_rows


def _describe(group: ArrayGroup) -> str:
    """A digest of what is known without reading rows."""
    forms = {name: [array.shape, str(array.dtype)] for name, array in group.arrays.items()}
    text = json.dumps([group.content, forms], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_remote(path: str) -> bool:
    return "://" in path


def _row_bytes(array: "zarr.Array[Any]") -> int:
    item_bytes = _VARIABLE_ROW_BYTES if array.dtype.kind in "OT" else array.dtype.itemsize
    return item_bytes * prod(array.shape[1:])


def _as_column(values: NDArray[Any]) -> Column:
    """Text and bytes as lists; everything else as it is."""
    if values.ndim == 1 and values.dtype.kind in "OSTU":
        listed: list[Any] = values.tolist()
        if all(isinstance(value, str) for value in listed) or all(
            isinstance(value, bytes) for value in listed
        ):
            return listed
    return values
