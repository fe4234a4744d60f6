"""Which columns can be read, and as what."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_MOST_ROW_BYTES = 1 << 26  # Of numbers.


@dataclass(frozen=True)
class ColumnKind:
    """What the rows of a column hold.

    Args:
        form: "image" for a struct whose field ``bytes`` is read.
        dtype: Of numbers, as NumPy names it.
        width: How many numbers a row has; None for one that is no list.
    """

    form: Literal["image", "bytes", "text", "numbers"]
    dtype: str = ""
    width: int | None = None

    @property
    def row_bytes(self) -> int | None:
        """Bytes of a row of numbers; None where they differ."""
        if self.form != "numbers":
            return None
        return np.dtype(self.dtype).itemsize * (1 if self.width is None else self.width)

    def __str__(self) -> str:
        if self.form != "numbers":
            return {"image": "image structs"}.get(self.form, self.form)
        return self.dtype if self.width is None else f"lists of {self.width} {self.dtype}"

    def leaf_of(self, name: str) -> str:
        """What pyarrow is asked for, to read no more of a column than needed."""
        return f"{name}.bytes" if self.form == "image" else name


def kind_of(stored: Any) -> ColumnKind | None:
    """What a column of this Arrow type is read as; None if it is not."""
    import pyarrow as pa

    if pa.types.is_struct(stored):
        place = stored.get_field_index("bytes")  # -1 if there are several, or none.
        is_image = place >= 0 and _is_binary(stored.field(place).type)
        return ColumnKind("image") if is_image else None
    if pa.types.is_fixed_size_list(stored):
        dtype = _dtype(stored.value_type)
        kind = None if dtype is None else ColumnKind("numbers", dtype, stored.list_size)
        return kind if kind and 0 < (kind.row_bytes or 0) <= _MOST_ROW_BYTES else None
    stored = stored.value_type if pa.types.is_dictionary(stored) else stored
    if pa.types.is_string(stored) or pa.types.is_large_string(stored):
        return ColumnKind("text")
    if _is_binary(stored):
        return ColumnKind("bytes")
    dtype = _dtype(stored)
    return None if dtype is None else ColumnKind("numbers", dtype)


def _is_binary(stored: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(stored) or pa.types.is_large_binary(stored))


def _dtype(stored: Any) -> str | None:
    import pyarrow as pa

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    is_number = any(is_one(stored) for is_one in tests)
    return np.dtype(stored.to_pandas_dtype()).name if is_number else None
