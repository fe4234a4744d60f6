"""A column of a batch, one row per example, and what can be done with it.

It is a tensor (of any subclass), a NumPy array, ``RaggedBytes``, or a list (or tuple) of values.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from jest_loader.container import list_like
from jest_loader.ragged import RaggedBytes

Column = Any

_FLOATS_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


def is_array(value: Any) -> bool:
    """Whether a value is a column wherever it stands; lists may be containers."""
    return isinstance(value, Tensor | np.ndarray | RaggedBytes) or is_foreign_array(value)


def is_foreign_array(value: Any) -> bool:
    """Whether a value is another package's array, such as JAX's: no column, but easily made one."""
    converts = hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    return (
        converts
        and hasattr(value, "shape")
        and not isinstance(value, Tensor | np.ndarray | np.generic)
    )


def rows_of(column: Column, rows: Tensor | slice) -> Column:
    """The rows at int64 [n] or in a slice, which is a view where possible; on the same device."""
    if isinstance(column, Tensor):
        index = rows if isinstance(rows, slice) else rows.to(column.device)
        return as_kind_of(column, column[index])
    if isinstance(rows, slice):
        part = column[rows]
        return list_like(column, part) if isinstance(column, list | tuple) else part
    if isinstance(column, np.ndarray):
        return column[rows.numpy()]
    if isinstance(column, RaggedBytes):
        return column.take(rows.numpy())
    return list_like(column, (column[row] for row in rows.tolist()))


def join(parts: Sequence[Column]) -> Column:
    """One column with the rows of ``parts``, which are of one ``kind``."""
    if isinstance(parts[0], Tensor):
        return as_kind_of(parts[0], torch.cat(tuple(parts)))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    if isinstance(parts[0], RaggedBytes):
        return RaggedBytes.concat(parts)
    return list_like(parts[0], chain.from_iterable(parts))


def moved(column: Column, device: torch.device) -> Column:
    """A tensor on ``device``; another column as it is."""
    if isinstance(column, Tensor):
        # A copy to the host that nobody waits for could be read before it is there.
        return as_kind_of(column, column.to(device, non_blocking=device.type != "cpu"))
    return column


def as_array(column: Column) -> Column:
    """A tensor as an array, over the same memory unless it is on a GPU; another column as it is.

    Kinds of floats that NumPy lacks, such as bfloat16, become float32.
    """
    if not isinstance(column, Tensor):
        return column
    is_known = not column.is_floating_point() or column.dtype in _FLOATS_OF_NUMPY
    return (column if is_known else column.float()).numpy(force=True)


def kind(column: Column) -> str:
    """Type, dtype and row shape: columns can be joined if these are equal."""
    if isinstance(column, Tensor):
        dtype = str(column.dtype).removeprefix("torch.")
        return f"{_tensor_type(column)} of {dtype} rows {tuple(column.shape[1:])}"
    if isinstance(column, np.ndarray):
        array_dtype = "string" if column.dtype.kind in "US" else column.dtype
        return f"array of {array_dtype} rows {column.shape[1:]}"
    return type(column).__name__


def as_kind_of(like: Tensor, rows: Tensor) -> Tensor:
    """``rows`` as the subclass of Tensor that ``like`` is, with its attributes.

    Operations make plain tensors of some subclasses, such as torchvision's ``tv_tensors``, whose
    attributes say what holds of all rows. Others are left to their own rules.
    """
    if type(rows) is not Tensor or type(like) is Tensor or isinstance(like, Parameter):
        return rows
    typed = rows.as_subclass(type(like))
    vars(typed).update(vars(like))
    return typed


def _tensor_type(column: Tensor) -> str:
    if type(column) is Tensor or isinstance(column, Parameter):
        return "tensor"
    name = type(column).__name__
    if type(column[...]) is not Tensor:
        return name  # What becomes of its attributes is its own affair.
    attributes = ", ".join(f"{key}={value!r}" for key, value in sorted(vars(column).items()))
    return f"{name}({attributes})" if attributes else name
