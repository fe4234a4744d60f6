"""What tells the rows of a batch apart."""

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import Batch, columns, num_examples
from jest_loader.ragged import RaggedBytes


def row_keys(batch: Batch, id_column: str | None) -> list[Hashable]:
    """The ids of a batch's rows, or without a column of ids a digest of all that each holds.

    Raises:
        ValueError: if the batch has no such column.
    """
    found = {path[0] if len(path) == 1 else path: column for path, column in columns(batch)}
    if id_column is None:
        size = num_examples(batch)
        return [_digest(column[row] for column in found.values()) for row in range(size)]
    if id_column not in found:
        raise ValueError(
            f"the batches must have the column {id_column!r}, got {', '.join(map(repr, found))}; "
            "name another, or None to tell rows by all that they hold"
        )
    ids = found[id_column]
    return list(ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids)


def _digest(values: Iterator[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return value.tobytes()
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, np.ndarray | list | tuple | RaggedBytes):
        return b"[" + b",".join(map(_bytes_of, value)) + b"]"
    return repr(value).encode()
