"""Whether batches are equal."""

from typing import Any

import numpy as np
from torch import Tensor

from jest_loader.batch import Batch, columns, structure


def batches_equal(first: Batch, second: Batch) -> bool:
    """Whether two batches have equal structure and equal rows."""
    if structure(first) != structure(second):
        return False
    found = dict(columns(second))
    return all(_columns_equal(column, found[path]) for path, column in columns(first))


def _columns_equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and first.dtype == object:
        return all(map(_columns_equal, first, second))
    if isinstance(first, Tensor | np.ndarray):
        if first.shape != second.shape:
            return False
        both_nan = (first != first) & (second != second)
        return bool(((first == second) | both_nan).all())
    return bool(first == second)
