"""Rows of batches that move from one rank to another.

They travel as tensors and plain values, read back by PyTorch's loader for weights, which runs
nothing that it is sent. Ranks trust each other, but their batches hold what others wrote.
"""

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import (
    Batch,
    Path,
    columns,
    concat,
    difference,
    num_examples,
    structure,
    take,
    with_columns,
)
from jest_loader.column import as_kind_of
from jest_loader.ragged import RaggedBytes
from jest_loader.ranks.agreement import Agreement

_PLAIN = (str, int, float, bool, type(None))
_ARRAY, _OBJECTS, _BYTES, _RAGGED, _LIST = "array", "objects", "bytes", "ragged", "list"


def even_out(
    candidates: Batch, index: Tensor, counts: list[int], agreement: Agreement
) -> tuple[Batch, Tensor]:
    """Move rows so that every rank has the same number of those chosen.

    Those that chose more pass on what they drew last.

    Args:
        candidates: This rank's.
        index: Int64 [n], the rows that it chose.
        counts: Rows that each rank chose, whose sum they divide evenly.
        agreement: The agreement of all ranks.

    Returns:
        The candidates, with the rows received after them, and int64 [mean of the counts], which to
        take.

    Raises:
        ValueError: if a column holds values that are neither arrays, tensors, text nor numbers, or
            differs from another rank's.
        RankError: if another rank raised.
    """
    ranks = agreement.ranks
    parts = [torch.empty(0, dtype=torch.uint8)] * ranks.size
    stop = len(index)
    with agreement.step("packing rows for other ranks"):
        for source, target, number in _moves(counts):
            if source == ranks.rank:
                parts[target] = _packed(take(candidates, index[stop - number : stop]))
                stop -= number
    received = ranks.all_to_all(parts)
    pool = [candidates]
    with agreement.step("taking rows from other ranks"):
        pool += [_unpacked(part, candidates) for part in received if part.numel()]
    first = num_examples(candidates)
    others = torch.arange(first, first + sum(map(num_examples, pool[1:])))
    return concat(pool), torch.cat([index[:stop], others])


def _moves(counts: list[int]) -> list[tuple[int, int, int]]:
    """(from rank, to rank, number of rows) of each transfer that evens out the counts."""
    size = sum(counts) // len(counts)
    lacking = [[rank, size - count] for rank, count in enumerate(counts) if count < size]
    moves = []
    for source, count in enumerate(counts):
        surplus = count - size
        while surplus > 0:
            target, number = lacking[0][0], min(surplus, lacking[0][1])
            moves.append((source, target, number))
            surplus -= number
            lacking[0][1] -= number
            if not lacking[0][1]:
                lacking.pop(0)
    return moves


def _packed(rows: Batch) -> Tensor:
    """Uint8 [bytes]: the columns of a batch."""
    buffer = io.BytesIO()
    torch.save([structure(rows), *(_plain(column) for _, column in _by_name(rows))], buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(packed: Tensor, like: Batch) -> Batch:
    """The batch of which ``_packed`` made this, in the containers of ``like``."""
    theirs, *values = torch.load(io.BytesIO(packed.numpy().tobytes()), weights_only=True)
    if found := difference(theirs, structure(like)):
        name, there, here = found
        raise ValueError(
            f"the candidates of all ranks must have the same columns, but column {name} is {here} "
            f"on this rank and {there} on another; give all ranks the same data"
        )
    restored = {
        path: _restored(value, column)
        for value, (path, column) in zip(values, _by_name(like), strict=True)
    }
    return with_columns(like, [restored[path] for path, _ in columns(like)])


def _by_name(batch: Batch) -> list[tuple[Path, Any]]:
    """The columns in one order on all ranks, whatever the order of a dict's keys."""
    return sorted(columns(batch), key=lambda column: repr(column[0]))


def _plain(value: Any) -> Any:
    """A column, or a value in one, as tensors and plain values."""
    if isinstance(value, Tensor):
        plain = value.detach().as_subclass(Tensor)  # The loader knows no subclass.
        return plain.cpu().clone()  # A view would be saved with all of its memory.
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return (_OBJECTS, array.shape, [_plain(each) for each in array.flat])
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return (_ARRAY, _plain(buffer.getvalue()))
    if isinstance(value, RaggedBytes):
        return (_RAGGED, list(map(_plain, value)))
    if isinstance(value, bytes):  # The loader takes text, but not all bytes.
        return (_BYTES, value.decode("latin-1"))
    if isinstance(value, list | tuple):
        return (_LIST, [_plain(each) for each in value])
    if isinstance(value, _PLAIN):
        return value
    raise ValueError(
        "rows that move between ranks must be tensors, arrays, text and numbers, got a "
        f"{type(value).__name__}; use quota='equal', which moves none"
    )


def _restored(value: Any, like: Any = None) -> Any:
    """What ``_plain`` took apart; a column on the device and of the type of ``like``."""
    if isinstance(value, Tensor):
        return as_kind_of(like, value.to(like.device)) if isinstance(like, Tensor) else value
    if not isinstance(value, tuple):
        return value
    kind, *parts = value
    if kind == _BYTES:
        return parts[0].encode("latin-1")
    if kind == _RAGGED:
        return RaggedBytes(map(_restored, parts[0]))
    if kind == _LIST:
        restored = [_restored(each) for each in parts[0]]
        return type(like)(restored) if like is not None else restored
    if kind == _ARRAY:
        array = np.load(io.BytesIO(_restored(parts[0])), allow_pickle=False)
        return array if array.ndim else array[()]
    shape, values = parts
    array = np.empty(len(values), dtype=object)
    for row, each in enumerate(values):
        array[row] = _restored(each)
    return array.reshape(shape)
