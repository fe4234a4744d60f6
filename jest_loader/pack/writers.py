"""Write rows to MDS or Zarr. A data set appears under its name only when it is whole."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.zarr import WRITER_ATTRIBUTE
from jest_loader.adapters.zarr.record import attribute_of
from jest_loader.files import BelongsTo, new_folder, read_regular
from jest_loader.pack.encodings import array_form, check_columns, checked_row

if TYPE_CHECKING:
    import zarr

Row = Mapping[str, Any]

_INDEX, _GROUP = "index.json", "zarr.json"
_ZARR_FILE = re.compile(r"zarr\.json|[^/]+/zarr\.json|[^/]+/c/[0-9/]+")
_MOST_BYTES = 1 << 30  # Of what a data set says of itself.
_HASH = "xxh64"  # ten times as fast as sha1; comes with streaming


def write_mds(
    path: str | os.PathLike[str],
    columns: Mapping[str, str],
    rows: Iterable[Row],
    *,
    compression: str | None = None,
    shard_bytes: int = 1 << 26,
    overwrite: bool = False,
) -> int:
    """Write rows as MosaicML MDS shards with xxh64 hashes.

    Args:
        path: The folder to make.
        columns: Column name to type: ``str``, ``bytes``, ``int``, ``float32``,
            ``ndarray:uint8:32,32``, ``json``, …
        rows: Dicts with a value for each column. Encoded images are ``bytes``.
        compression: ``zstd``, ``gz``, ``br``, ``bz2`` or ``snappy``, with a level if you like
            (``zstd:7``); None for none, which suits images that are encoded.
        shard_bytes: The most bytes a shard has before compression.
        overwrite: Whether to replace a data set of that name.

    Returns:
        The number of rows.

    Raises:
        ValueError: if a column's type is unknown, a row does not fit its columns, there is no row,
            or ``path`` is taken.
    """
    from streaming import MDSWriter

    check_columns(columns)
    number = 0
    with new_folder(path, overwrite=overwrite, files_at=_files_at) as folder:
        writer = MDSWriter(
            out=str(folder),
            columns=dict(columns),
            compression=compression,
            hashes=[_HASH],
            size_limit=shard_bytes,
        )
        try:
            for row in rows:
                writer.write(checked_row(columns, row, number))
                number += 1
        except BaseException:
            writer.cancel_future_jobs()
            raise
        writer.finish()  # not by a with block, which would finish after an error too
        _check_any(number, path)
    return number


def write_zarr(
    path: str | os.PathLike[str],
    columns: Mapping[str, str],
    rows: Iterable[Row],
    *,
    compression: Literal["zstd"] | None = "zstd",
    chunk_rows: int = 256,
    overwrite: bool = False,
) -> int:
    """Write rows as a Zarr group of format 3, one array for each column.

    All arrays have chunks of the same rows, each with a crc32c checksum that the group's attributes
    hold too, by which one in the place of another is told. No chunk is left out, even if it holds
    nothing but zeros, so that a lost one can be told.

    Args:
        path: The folder to make.
        columns: Column name to type, as for ``write_mds`` but ``json``.
        rows: Dicts with a value for each column.
        compression: ``zstd``, or None for none.
        chunk_rows: The rows of a chunk.
        overwrite: Whether to replace a data set of that name.

    Returns:
        The number of rows.

    Raises:
        ValueError: as for ``write_mds``.
    """
    check_columns(columns)
    if "json" in columns.values():
        raise ValueError(f"Zarr has no json columns, got {dict(columns)}; use str and json.dumps")
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    number = 0
    with new_folder(path, overwrite=overwrite, files_at=_files_at) as folder:
        chunks = _ZarrChunks(folder, columns, chunk_rows, compression)
        for row in rows:
            chunks.add(checked_row(columns, row, number))
            number += 1
        _check_any(number, path)
        chunks.finish()
    return number


def _check_any(number: int, path: str | os.PathLike[str]) -> None:
    if not number:
        raise ValueError(f"a data set must have at least one row, got none for {str(path)!r}")


class _ZarrChunks:
    """Gathers rows and appends them to the arrays a chunk at a time."""

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, str],
        chunk_rows: int,
        compression: Literal["zstd"] | None,
    ) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        codecs: list[Any] = [] if compression is None else [ZstdCodec(level=3)]
        self._folder = folder
        self._columns = columns
        self._chunk_rows = chunk_rows
        self._rows: list[dict[str, Any]] = []
        self._num_rows = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._group = zarr.open_group(folder, mode="w", zarr_format=3)
        self._arrays = {
            name: self._create(name, encoding, [*codecs, Crc32cCodec()])
            for name, encoding in columns.items()
        }

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == self._chunk_rows:
            self._flush()

    def finish(self) -> None:
        if self._rows:
            self._flush()
        self._group.attrs[WRITER_ATTRIBUTE] = attribute_of(
            self._folder,
            self._columns,
            num_rows=self._num_rows,
            num_chunks=-(-self._num_rows // self._chunk_rows),
            content=self._digest.hexdigest(),
        )

    def _create(self, name: str, encoding: str, codecs: list[Any]) -> "zarr.Array[Any]":
        shape: tuple[int, ...] = ()
        dtype: Any = "string" if encoding == "str" else "variable_length_bytes"
        if encoding not in ("str", "bytes", "jpeg", "png"):
            dtype, shape = array_form(encoding)
        with _quiet():
            return self._group.create_array(
                name,
                shape=(0, *shape),
                chunks=(self._chunk_rows, *shape),
                dtype=dtype,
                compressors=codecs,
                config={"write_empty_chunks": True},
            )

    def _flush(self) -> None:
        for name, encoding in self._columns.items():
            values = [row[name] for row in self._rows]
            self._note(name, values)
            with _quiet():
                self._arrays[name].append(_as_array(encoding, values))
        self._num_rows += len(self._rows)
        self._rows = []

    def _note(self, name: str, values: list[Any]) -> None:
        """Let the content digest, by which a resumed run knows the data set, take in a chunk."""
        self._digest.update(name.encode())
        for value in values:
            part = _as_bytes(value)
            self._digest.update(len(part).to_bytes(8, "little") + part)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()


def _as_array(encoding: str, values: list[Any]) -> NDArray[Any]:
    if encoding not in ("str", "bytes", "jpeg", "png"):
        return np.array(values, dtype=array_form(encoding)[0])
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps zarr from warning that its type for bytes has no specification yet.

    There is no other type for encoded images, and zarr reads this one in formats 2 and 3.
    """
    from zarr.errors import UnstableSpecificationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield


def _files_at(path: Path) -> BelongsTo:
    """Which files belong to the data set at ``path``, by what it says itself."""
    index, group = _json_at(path / _INDEX), _json_at(path / _GROUP)
    shards, attributes = index.get("shards"), group.get("attributes")
    if isinstance(shards, list):
        parts = [part for shard in shards if isinstance(shard, dict) for part in shard.values()]
        names = [part.get("basename") for part in parts if isinstance(part, dict)]
        return {_INDEX, *(name for name in names if isinstance(name, str))}.__contains__
    if isinstance(attributes, dict) and WRITER_ATTRIBUTE in attributes:
        return lambda name: _ZARR_FILE.fullmatch(name) is not None
    raise ValueError(
        "only a data set in MDS shards, or one that jest-loader wrote to Zarr, can be overwritten, "
        f"but {str(path)!r} is none; choose another output"
    )


def _json_at(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is none."""
    try:
        found = json.loads(read_regular(path, _MOST_BYTES))
    except Exception:  # There is none, or it holds anything.
        return {}
    return found if isinstance(found, dict) else {}
