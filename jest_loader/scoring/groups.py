"""Ids of groups: examples with equal values in a column, which are not each other's negatives."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import Batch

_DIGEST_BYTES = 8  # Of an int64: among a million different values a collision has odds of 1 in 37M.


def check_column(name: object) -> None:
    """Raise ``ValueError`` unless ``name`` is the name of a column or None."""
    if name is not None and not isinstance(name, str):
        raise ValueError(f"equal_by must be the name of a column or None, got {name!r}")


def group_ids(batch: Batch, column: str | None) -> Tensor | None:
    """Int64 [B]: ids that are equal where the values in ``column`` are; None without a column.

    The id of a text is a BLAKE2b digest of eight bytes, the same in every process.

    Raises:
        ValueError: if there is no such column, or it holds neither text nor whole numbers, one for
            each example.
    """
    if column is None:
        return None
    if not isinstance(batch, Mapping) or column not in batch:
        has = map(repr, batch) if isinstance(batch, Mapping) else [type(batch).__name__]
        raise ValueError(
            f"equal_by={column!r} must be a column of the batch, which has {', '.join(has)}; "
            "add it to the source"
        )
    values: Any = batch[column]
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        return torch.from_numpy(values.astype(np.int64))
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if all(type(value) is int for value in values):
        return torch.tensor(values, dtype=torch.int64)
    if not all(isinstance(value, str) for value in values):
        odd = next(value for value in values if not isinstance(value, str))
        raise ValueError(
            f"equal_by={column!r} must be text or whole numbers, one for each example, got "
            f"{type(odd).__name__}; name a column of captions or ids"
        )
    return torch.tensor([_hashed(value) for value in values], dtype=torch.int64)


def _hashed(text: str) -> int:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "little", signed=True)
