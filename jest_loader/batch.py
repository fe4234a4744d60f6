"""What a batch is: a pytree whose leaves share one leading dimension.

Containers are dicts, tuples, lists, named tuples and dataclasses. A leaf is a *column*, one row per
example: a tensor, a NumPy array, ``RaggedBytes``, or a list (or tuple) of plain Python values such
as strings or bytes. Nothing here looks inside a row. Arrays of other packages are refused.

A list or tuple is a container when a tensor, array or ``RaggedBytes`` lies anywhere in it (what
``default_collate`` makes of tuple samples), and a column otherwise (a list of captions, or of dicts
of plain values). One tensor per example must therefore be stacked, or put into a NumPy array of
dtype object. A batch that is itself a list or tuple of lists, say ``(paths, captions)``, is a
container too; below the top a list of lists is a column, say of token lists.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.column import as_array, is_array, is_foreign_array, join, kind, moved, rows_of
from jest_loader.container import fields_of, is_list, rebuilt
from jest_loader.ragged import RaggedBytes

Batch = Any  # A pytree of columns. Python's type system has no better name for it.
Path = tuple[str | int, ...]

_NUM_SHOWN = 4  # Columns that a message names.
_AS_A_DICT = "make collate_fn return a dict of columns, such as {'image': [...], 'caption': [...]}"
# Known to hold no arrays: the search through a list of captions would cost more than taking them.
_PLAIN_TYPES = frozenset([str, bytes, int, float, bool])


def num_examples(batch: Batch) -> int:
    """The leading dimension that all columns share.

    Raises:
        ValueError: if there is no column, a leaf is not a column, or columns differ in length.
    """
    lengths = {path: _length(path, column) for path, column in columns(batch)}
    if not lengths:
        raise ValueError(
            "a batch must have at least one column (tensor, array or list), "
            f"got an empty {type(batch).__name__}"
        )
    if len(set(lengths.values())) > 1:
        some = list(lengths.items())[:_NUM_SHOWN]
        shown = ", ".join(f"{_name(path)} has {n}" for path, n in some)
        if len(lengths) > len(some):
            shown += f" and {len(lengths) - len(some)} more"
        raise ValueError(
            f"all columns of a batch must have the same number of rows, but {shown}; stack a list "
            "of one tensor per example, or, if their sizes differ, make it a NumPy array of dtype "
            "object"
        )
    return next(iter(lengths.values()))


def columns(batch: Batch, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each column with its path of keys, field names and positions."""
    children = _children(batch, is_top=not path)
    if children is None:
        yield path, batch
        return
    for name, child in children.items():
        yield from columns(child, (*path, name))


def check_not_square(batch: Batch) -> None:
    """Raise ``ValueError`` for n lists of n values each: they may be columns, or rows.

    Below the top only tuples are refused, which ``default_collate`` makes of lists, as columns.
    """
    holds_lists = is_list(batch) and all(map(is_list, batch))
    if holds_lists and len(batch) == num_examples(batch) > 1:
        raise ValueError(
            f"a batch of {len(batch)} lists of {len(batch)} values may be columns or rows; "
            f"{_AS_A_DICT}"
        )
    for path, column in columns(batch):
        if type(column) is list and (size := len(column)) > 1 and _are_tuples_of(size, column):
            raise ValueError(
                f"{size} tuples of {size} values may be the rows of column {_name(path)} or, as "
                "default_collate has lists, its columns; make collate_fn return a list for each "
                "example"
            )


def check_not_per_example(batch: Batch, size: int) -> None:
    """Raise ``ValueError`` for as many tensors as examples: they would be read as columns.

    Tensors of several dtypes or numbers of dimensions are columns.

    Args:
        batch: Of columns, as far as is known.
        size: Its examples.
    """
    for path, children in _lists(batch):
        if len(children) != size or size == 1:
            continue
        if len({_kinds_below(child) for child in children.values()}) == 1:
            raise ValueError(
                f"a list of {size} tensors of one kind in a batch of {size} examples may hold one "
                f"per example, but {_name(path)} would be read as {size} columns; stack them, or, "
                f"if they are columns, {_AS_A_DICT}"
            )


def take(batch: Batch, index: Tensor) -> Batch:
    """The rows ``index`` (int64 [n]) of every column, in that order, on the devices they are on."""
    host = index.cpu()
    return _map(
        lambda column: rows_of(column, index if isinstance(column, Tensor) else host), batch
    )


def concat(batches: Sequence[Batch]) -> Batch:
    """One batch with the rows of ``batches``, which must have equal ``structure``.

    The keys of a dict may come in another order in each: columns are joined by name.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    found = [dict(columns(batch)) for batch in batches]
    return with_columns(first, [join([one[path] for one in found]) for path in found[0]])


def with_columns(batch: Batch, new: Sequence[Any]) -> Batch:
    """The same containers around other columns, in the order of ``columns``."""
    left = iter(new)
    return _map(lambda _: next(left), batch)


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive micro-batches of a batch, in its structure; views where possible.

    A contrastive loss of each has fewer negatives than that of the batch: docs/accumulation.md.

    Args:
        batch: Any batch.
        size: Rows of each; the last may have fewer.

    Raises:
        ValueError: if ``size`` is below 1, or it is no batch.
    """
    if size < 1:
        raise ValueError(f"a micro-batch must have at least one row, got size {size}")
    starts = range(0, num_examples(batch), size)
    return (_map(partial(rows_of, rows=slice(start, start + size)), batch) for start in starts)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on ``device``; other columns are left alone."""
    return _map(partial(moved, device=device), batch)


def to_numpy(batch: Batch) -> Batch:
    """The same batch with its tensors as arrays, by ``column.as_array``."""
    return _map(as_array, batch)


def structure(batch: Batch) -> dict[str, str]:
    """The ``kind`` of each column: batches can be joined if these are equal."""
    return {_name(path): kind(column) for path, column in columns(batch)}


def difference(first: dict[str, str], second: dict[str, str]) -> tuple[str, str, str] | None:
    """A column that two structures have otherwise: its name and both kinds; None if none is."""
    for name in first | second:
        kinds = first.get(name, "absent"), second.get(name, "absent")
        if kinds[0] != kinds[1]:
            return (name, *kinds)
    return None


def _children(node: Any, *, is_top: bool) -> dict[str | int, Any] | None:
    """The named parts of a container, or None for a leaf."""
    if not is_list(node):
        return fields_of(node)
    if any(map(_holds_arrays, node)) or (is_top and _holds_lists(node)):
        return dict(enumerate(node))
    return None


def _lists(node: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str | int, Any]]]:
    """The parts of each list or tuple that holds arrays, with its path."""
    children = _children(node, is_top=not path) or {}
    if is_list(node) and any(map(_holds_arrays, children.values())):
        yield path, children
    for name, child in children.items():
        yield from _lists(child, (*path, name))


def _kinds_below(node: Any) -> tuple[Any, ...]:
    """The names of a node's columns with their types, dtypes and numbers of dimensions."""
    return tuple(
        (path, type(column), getattr(column, "dtype", None), getattr(column, "ndim", 1))
        for path, column in columns(node, ("a part",))
    )


def _are_tuples_of(size: int, column: list[Any]) -> bool:
    return all(type(value) is tuple and len(value) == size for value in column)


def _holds_arrays(value: Any) -> bool:
    if type(value) in _PLAIN_TYPES:
        return False
    if is_array(value):
        return True
    parts = value if is_list(value) else (fields_of(value) or {}).values()
    return any(map(_holds_arrays, parts))


def _holds_lists(batch: Sequence[Any]) -> bool:
    """Whether the values of a list without arrays are its columns, rather than its rows.

    Raises:
        ValueError: if neither is certain.
    """
    kinds = [
        f"list of {len(value)}" if is_list(value) else type(value).__name__
        for value in batch
        if type(value) not in _PLAIN_TYPES and (is_list(value) or fields_of(value) is not None)
    ]
    if not kinds:
        return False
    if len(kinds) < len(batch) or set(kinds) != {f"list of {len(batch[0])}"}:
        raise ValueError(
            "a batch that is a list or tuple must hold one value per example, or its columns as "
            f"lists of one length, but holds a {kinds[0]} among {len(batch)} values; {_AS_A_DICT}"
        )
    return True


def _map(function: Callable[[Any], Any], node: Any, *, is_top: bool = True) -> Any:
    children = _children(node, is_top=is_top)
    if children is None:
        return function(node)
    return rebuilt(
        node, {name: _map(function, child, is_top=False) for name, child in children.items()}
    )


def _length(path: Path, column: Any) -> int:
    if isinstance(column, Tensor) and (column.is_nested or column.layout != torch.strided):
        raise ValueError(
            f"a tensor in a batch must be dense, but {_name(path)} is sparse or nested; call "
            "to_dense(), or make it a NumPy array of dtype object, one tensor per example"
        )
    if isinstance(column, np.ma.MaskedArray):
        raise ValueError(
            f"an array in a batch must not be masked, but {_name(path)} is; make it "
            "column.filled(value), with the mask as a column of its own if it is needed"
        )
    if isinstance(column, Tensor | np.ndarray):
        if column.ndim > 0:
            return int(column.shape[0])
    elif isinstance(column, list | tuple | RaggedBytes):
        return len(column)
    elif is_foreign_array(column):
        raise ValueError(
            "a column must be a tensor, a NumPy array or a list, but "
            f"{_name(path)} is a {type(column).__module__}.{type(column).__qualname__}; make it "
            "np.asarray(column) in collate_fn"
        )
    is_row = len(path) > 1 and isinstance(path[0], int)  # A value of a list of examples.
    remedy = f"; if the batch is a list of examples, {_AS_A_DICT}" if is_row else ""
    raise ValueError(
        f"every leaf of a batch must have one row per example, but {_name(path)} is a single "
        f"{type(column).__name__}; drop it from the batch or repeat it for each example{remedy}"
    )


def _name(path: Path) -> str:
    return "".join(f"[{part!r}]" for part in path) or "the batch"
