"""What a file's footer says of it, read once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jest_loader.adapters.blocks.open_file import Stamp
from jest_loader.adapters.parquet.byte_file import ByteFile
from jest_loader.adapters.parquet.column_kind import ColumnKind, kind_of
from jest_loader.adapters.parquet.opened import Refused, opened
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL_BYTES = 8  # The footer's length and the magic bytes.
_MOST_BYTES = 1 << 28
_MOST_ROWS = 1 << 24


@dataclass(frozen=True, eq=False)
class Footer:
    """What is known of a file without reading its rows.

    Args:
        path: The file.
        stamp: Of the file whose footer it is.
        digest: Of the footer and the file's size.
        groups: Int64 [n], the numbers of its row groups that have rows.
        rows: Int64 [n], how many rows each of these has.
        kinds: What its columns are read as, by name; the type of those that cannot be, as text.
    """

    path: Path
    stamp: Stamp
    digest: bytes
    groups: Int64Array
    rows: Int64Array
    kinds: dict[str, ColumnKind | str]

    def check_same(self, file: ByteFile) -> None:
        """Raise ``ValueError`` if the file is no longer the one whose footer this is."""
        now = file.file.stamp
        if (now.size, now.modified_ns) != (self.stamp.size, self.stamp.modified_ns):
            raise Refused(
                f"{shown(self.path)} was replaced or written to while it was in use (it had "
                f"{self.stamp.size} bytes and now has {now.size}); start again with the files as "
                "they are now"
            )


def read_footer(path: Path) -> Footer:
    """Read what a file says of itself.

    Raises:
        ValueError: if it is no whole Parquet file, is encrypted or has no rows.
        OSError: if it cannot be read.
    """
    from pyarrow import parquet

    with opened(path) as file:
        digest = _digest(file, path)
        found = parquet.ParquetFile(file)
        rows = _row_counts(found.metadata, path)
        kinds = _kinds(found.schema_arrow)
    groups = np.flatnonzero(rows)
    return Footer(path, file.file.stamp, digest, groups, rows[groups], kinds)


def _digest(file: ByteFile, path: Path) -> bytes:
    """Of the footer's bytes, once they are known to be there."""
    size = len(file.file)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = bytes(file.read(_TAIL_BYTES))
    file.seek(0)
    head = bytes(file.read(len(_MAGIC)))
    if _ENCRYPTED in (head, tail[4:]):
        raise Refused(f"{shown(path)} must not be encrypted, but is; decrypt it first")
    if head != _MAGIC:
        raise Refused(f"{shown(path)} must be a Parquet file, but is none; look at the path")
    footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or not 0 < footer_bytes <= size - len(_MAGIC) - _TAIL_BYTES:
        raise Refused(
            f"{shown(path)} must end with a Parquet footer, but does not: it is cut short or "
            "damaged; fetch it again"
        )
    if footer_bytes > _MOST_BYTES:
        raise Refused(
            f"a Parquet footer may have {_MOST_BYTES >> 20} MiB, but that of {shown(path)} has "
            f"{footer_bytes >> 20} MiB; write fewer row groups into a file"
        )
    file.seek(size - _TAIL_BYTES - footer_bytes)
    return hashlib.blake2b(
        bytes(file.read(footer_bytes)) + size.to_bytes(8, "little"), digest_size=16
    ).digest()


def _row_counts(metadata: Any, path: Path) -> Int64Array:
    counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if not any(counts):
        raise Refused(f"{shown(path)} must hold at least one row, but holds none; leave it out")
    if min(counts) < 0 or max(counts) > _MOST_ROWS:
        odd = next(count for count in counts if not 0 <= count <= _MOST_ROWS)
        raise Refused(
            f"a row group must have from 0 to {_MOST_ROWS} rows, but one of {shown(path)} says "
            f"{odd}; fetch it again, or write smaller row groups"
        )
    return np.array(counts, np.int64)


def _kinds(schema: Any) -> dict[str, ColumnKind | str]:
    names = list(schema.names)
    kinds: dict[str, ColumnKind | str] = {}
    for field in schema:
        kind = kind_of(field.type) if field.name not in kinds else None
        kinds[field.name] = kind or shown(field.type)
    if len(kinds) < len(names):
        twice = {name for name in names if names.count(name) > 1}
        kinds |= dict.fromkeys(twice, "there several times")
    return kinds
