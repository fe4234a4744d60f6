"""A column of ids of a parquet file, read by pyarrow."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jest_loader.checks import first_few, shown

_ROWS = 1 << 16  # Read together.


def check_pyarrow() -> None:
    """Raise ``ModuleNotFoundError`` with what to install, unless pyarrow is here."""
    if find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            "ids in parquet files need pyarrow, which the library does not: "
            "pip install 'jest-loader[parquet]'",
            name="pyarrow",
        )


def num_rows_of(path: Path) -> int:
    """Rows of a parquet file, by its footer.

    Raises:
        ValueError: if it is none.
    """
    with _naming(path):
        return int(_opened(path).metadata.num_rows)


def ids_of(path: Path, column: str) -> Iterator[Any]:
    """The ids of a parquet file a batch at a time: int64 [n], or a list of text or bytes.

    Raises:
        ValueError: if it has no such column, or one with other values, or rows without an id.
    """
    with _naming(path):
        file = _opened(path)
        names = list(file.schema_arrow.names)
    if column not in names:
        known = shown(first_few(names))
        raise ValueError(
            f"{path} must have the column {column!r}, but has {known}; name another as id_column"
        )
    if names.count(column) > 1 or not _is_flat(file, column):
        kind = shown(str(file.schema_arrow.field(names.index(column)).type))
        raise ValueError(
            f"ids must be whole numbers, text or bytes, but column {column!r} of {path} is {kind}; "
            "name another as id_column"
        )
    with _naming(path):
        for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
            found = batch.column(0)
            if found.null_count:
                raise _Told(
                    f"each row must have an id, but column {column!r} of {path} is empty in "
                    f"{found.null_count} rows; name another as id_column, or leave those rows out"
                )
            yield _plain(found)


class _Told(ValueError):
    """An error that names its file already."""


class _naming:
    """What pyarrow raises of a damaged file, which may be anything, as a sentence on the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        check_pyarrow()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, _Told | FileNotFoundError):
            raise ValueError(
                f"{self._path} must be a whole parquet file, but cannot be read "
                f"({shown(repr(error))}); fetch it again"
            ) from error


def _opened(path: Path) -> Any:
    from pyarrow import parquet

    if not path.is_file():
        raise ValueError("it is no file")
    return parquet.ParquetFile(path)


def _is_flat(file: Any, column: str) -> bool:
    import pyarrow as pa

    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
        pa.types.is_large_binary, pa.types.is_fixed_size_binary,
    )  # fmt: skip
    return any(is_one(kind) for is_one in tests)


def _plain(found: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    is_whole = pa.types.is_integer(found.type)
    return found.to_numpy(zero_copy_only=False) if is_whole else found.to_pylist()
