"""The chosen columns of a row group, within bounds.

Sizes and numbers of rows are claims of whoever wrote the file. A row group is read a few rows at a
time, so that what it really holds can be counted before it is too much.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jest_loader.adapters.blocks.columns import Columns, join
from jest_loader.adapters.parquet.column_kind import ColumnKind
from jest_loader.adapters.parquet.footer import Footer
from jest_loader.adapters.parquet.opened import Refused, opened
from jest_loader.adapters.parquet.values import column_of
from jest_loader.checks import shown
from jest_loader.skipped import SKIP_REASON

_MOST_BYTES = 1 << 31
_MOST_RATIO, _FREE_BYTES = 256, 1 << 26  # What a file may claim to hold, over its size.
_MOST_ROWS = 64  # At a time.

Kinds = Mapping[str, ColumnKind]


def read_row_group(footer: Footer, block: int, kinds: Kinds) -> Columns:
    """The chosen columns of a row group, and why some of its rows cannot be used.

    Args:
        footer: Of the file.
        block: Which of ``footer.groups``.
        kinds: The columns, and what they are read as.

    Raises:
        ValueError: if the file has changed, is damaged, or the row group is too large.
        OSError: if it cannot be read.
    """
    from pyarrow import parquet

    first_row = int(footer.rows[:block].sum())
    num_rows = int(footer.rows[block])
    parts = []
    num_read = 0
    with opened(footer.path) as file:
        footer.check_same(file)
        found = parquet.ParquetFile(file, page_checksum_verification=True)
        for batch in _batches(found, footer, int(footer.groups[block]), kinds):
            parts.append(_columns(batch, kinds, footer.path, first_row + num_read))
            num_read += batch.num_rows
        if num_read != num_rows:
            raise Refused(
                f"a row group of {shown(footer.path)} must have {num_rows} rows as its footer "
                f"says, but has {num_read}; fetch it again"
            )
    return join(parts)


def _batches(found: Any, footer: Footer, group: int, kinds: Kinds) -> Iterator[Any]:
    claimed = _claimed(found.metadata.row_group(group), kinds)
    _check_size(claimed, footer)
    row_bytes = sum(kind.row_bytes or claimed for kind in kinds.values())
    num_bytes = 0
    for batch in found.iter_batches(
        batch_size=max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, row_bytes))),
        row_groups=[group],
        columns=[kind.leaf_of(name) for name, kind in kinds.items()],
        use_threads=False,
    ):
        num_bytes += batch.nbytes
        if num_bytes > _MOST_BYTES:
            raise _too_large(footer.path, f"more than {_MOST_BYTES}")
        yield batch


def _claimed(group: Any, kinds: Kinds) -> int:
    """Bytes of the chosen columns once decompressed, as the footer has it."""
    leaves = {kind.leaf_of(name) for name, kind in kinds.items()}
    claimed = 0
    for number in range(group.num_columns):
        column = group.column(number)
        path = column.path_in_schema
        if path in leaves or path.partition(".")[0] in leaves:
            claimed += max(0, column.total_uncompressed_size)
    return claimed


def _check_size(claimed: int, footer: Footer) -> None:
    if claimed > _MOST_BYTES:
        raise _too_large(footer.path, f"{claimed}")
    if claimed > max(_FREE_BYTES, _MOST_RATIO * footer.stamp.size):
        raise Refused(
            f"a row group must not claim more than {_MOST_RATIO} times the bytes of its file, but "
            f"one of {shown(footer.path)} claims {claimed} in a file of {footer.stamp.size}; fetch "
            "it again, or write it anew"
        )


def _too_large(path: Path, found: str) -> Refused:
    return Refused(
        f"the columns that are read of a row group may have {_MOST_BYTES} bytes, but those of one "
        f"of {shown(path)} have {found}; write smaller row groups, of 100 to 1000 rows, or read "
        "fewer columns"
    )


def _columns(batch: Any, kinds: Kinds, path: Path, first_row: int) -> Columns:
    columns: Columns = {}
    reasons = [""] * batch.num_rows
    for name, kind in kinds.items():
        array = batch.column(batch.schema.get_field_index(name))
        columns[name], bad = column_of(kind, array)
        for row, reason in bad.items():
            reasons[row] = reasons[row] or shown(
                f"row {first_row + row} of {path}: its {name} {reason}"
            )
    columns[SKIP_REASON] = reasons
    return columns
