"""Super-batches: a source's batches, joined until there are enough candidates."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from jest_loader.batch import Batch, concat, num_examples, structure
from jest_loader.protocols import Source, Stateful


@dataclass(frozen=True)
class SuperBatch:
    """Candidates, and the state of the source right after the last of them was read.

    Args:
        candidates: A batch of ``num_examples`` rows, fewer than asked for only at the end of the
            source.
        num_examples: Rows of ``candidates``.
        source_state: What the source's ``state_dict`` returned; None if it has none.
    """

    candidates: Batch
    num_examples: int
    source_state: dict[str, Any] | None


def super_batches(
    batches: Iterator[Batch], *, source: Source, sizes: Iterator[int]
) -> Iterator[SuperBatch]:
    """A pass's batches joined to super-batches; what is left at the end comes last.

    Args:
        batches: What iterating ``source`` yields.
        source: Where the batches come from.
        sizes: Rows of each super-batch, without end.

    Raises:
        ValueError: if batches differ in structure or size, or a size is not a multiple of theirs.
    """
    reader = _Reader(source, next(sizes))
    for batch in batches:
        reader.add(batch)
        if reader.is_full:
            yield reader.flush()
            reader.size = next(sizes)
    if reader.num_rows > 0:
        yield reader.flush()


class _Reader:
    """Batches read since the last super-batch; checks that they go together."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self.size = size
        self._batch_size: int | None = declared_batch_size(source)
        self._structure: dict[str, str] | None = None
        self._short: int | None = None
        self._batches: list[Batch] = []
        self.num_rows = 0

    @property
    def is_full(self) -> bool:
        return self.num_rows == self.size

    def add(self, batch: Batch) -> None:
        rows = num_examples(batch)
        self._check_size(rows)
        self._check_structure(structure(batch))
        self._batches.append(batch)
        self.num_rows += rows
        if self.num_rows > self.size or (
            self.is_full and self.size % (self._batch_size or rows) != 0
        ):
            raise ValueError(self._size_error(self._batch_size or rows))

    def flush(self) -> SuperBatch:
        state = self._source.state_dict() if isinstance(self._source, Stateful) else None
        super_batch = SuperBatch(concat(self._batches), self.num_rows, state)
        self._batches, self.num_rows = [], 0
        return super_batch

    def _check_size(self, rows: int) -> None:
        if self._batch_size is None:
            self._batch_size = rows
        odd = rows if rows > self._batch_size else self._short
        if odd is not None:
            raise ValueError(
                "all batches of a source but the last must have the same number of rows, "
                f"got {odd} where {self._batch_size} were expected; fix the loader's collate_fn, "
                "or set drop_last=True, since each worker of an iterable dataset ends with a short "
                "batch"
            )
        if rows < self._batch_size:
            self._short = rows

    def _size_error(self, batch_size: int) -> str:
        error = size_error(self.size, batch_size)
        if declared_batch_size(self._source) is not None:
            return error
        return (
            f"{error}; if this is sub_batch_size, which uniform steps of a schedule read, give the "
            f"source an attribute batch_size of {batch_size}"
        )

    def _check_structure(self, found: dict[str, str]) -> None:
        if self._structure is None:
            self._structure = found
        for name in self._structure | found:
            was, now = self._structure.get(name, "absent"), found.get(name, "absent")
            if was != now:
                raise ValueError(
                    f"all batches of a source must have the same structure, but column {name} was "
                    f"{was} and is now {now}; make collate_fn return fixed shapes, say by padding"
                )


def declared_batch_size(source: Source) -> int | None:
    """The rows of a list's first batch, or the ``batch_size`` that the source declares."""
    if isinstance(source, Sequence) and len(source) > 0:
        return num_examples(source[0])
    batch_size = getattr(source, "batch_size", None)
    return batch_size if isinstance(batch_size, int) and batch_size > 0 else None


def size_error(super_batch_size: int, batch_size: int) -> str:
    """The sentence for a super-batch that is no multiple of the source's batches."""
    multiple = max(1, round(super_batch_size / batch_size)) * batch_size
    return (
        "super_batch_size must be a multiple of the source's batch size, "
        f"got {super_batch_size} and {batch_size}; use {multiple} or change the loader's batch_size"
    )


def num_full_rows(source: Any) -> int:
    """Examples per epoch in full batches, known without reading any.

    Raises:
        TypeError: if the source has no length or no batch size.
    """
    if isinstance(source, Sequence) and len(source) > 0:
        batch_size = num_examples(source[0])
        return batch_size * (len(source) - (num_examples(source[-1]) < batch_size))
    declared = declared_batch_size(source)
    if declared is None or not hasattr(source, "__len__"):
        raise TypeError(
            "a JestDataset has a length only if its source has a length and a batch_size, "
            f"but {type(source).__name__} does not have both"
        )
    if isinstance(source, DataLoader):
        rows: Any = source.sampler if isinstance(source.sampler, Sized) else source.dataset
        return len(rows) // declared * declared
    num_rows = getattr(source, "num_examples", None)
    return (num_rows // declared if isinstance(num_rows, int) else len(source)) * declared


def num_promised_rows(source: Any) -> int:
    """The fewest rows that a whole pass over the source yields, by its length; 0 if not known."""
    try:
        num_rows = num_full_rows(source)
    except TypeError:
        return 0
    if isinstance(source, DataLoader) and isinstance(source.dataset, IterableDataset):
        # Each worker ends with a batch of its own, which is short and may be dropped.
        num_rows -= source.num_workers * (source.batch_size or 0)
    return max(0, num_rows)
