"""Super-batches: a source's batches, prepared and joined until there are enough candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from jest_loader.batch import (
    Batch,
    check_not_per_example,
    check_not_square,
    concat,
    difference,
    num_examples,
    structure,
    take,
)
from jest_loader.checks import ending_nothing
from jest_loader.loader.data_loader import collates_columns
from jest_loader.loader.promises import Declared
from jest_loader.loader.resuming import state_of
from jest_loader.loader.schedule import Step
from jest_loader.skipped import Used, listed, named, use

Prepare = Callable[[Batch], Batch]
"""What is done to a source's batches as they are read; keeps rows and their order."""


@dataclass(frozen=True)
class SuperBatch:
    """Candidates, and how a sub-batch of them is chosen.

    Args:
        step: How.
        candidates: A batch of ``num_rows`` rows. Each skipped row is filled with another's values.
        num_rows: As ``step`` asks for, or fewer at the end of the source.
        batch_size: Rows of the source's batches.
        skipped: The rows that ``prepare`` cannot use, each named with what is wrong with it.
        source_state: The source's state right after the last row was read; None if it has none.
        ready: After what has put the candidates on a GPU, for a stream of its own that reads them;
            None where they are not on one.
    """

    step: Step
    candidates: Batch
    num_rows: int
    batch_size: int
    skipped: dict[int, str]
    source_state: dict[str, Any] | None
    ready: "torch.cuda.Event | None" = None

    @property
    def is_whole(self) -> bool:
        """Whether it has as many rows as were asked for."""
        return self.num_rows == self.step.super_batch_size


def super_batches(
    batches: Iterator[Batch],
    *,
    declared: Declared,
    prepare: Prepare | None,
    steps: Iterator[Step],
) -> Iterator[SuperBatch]:
    """A pass's batches joined to super-batches; what is left at the end comes last.

    Args:
        batches: What iterating the source yields.
        declared: The source, and what is known of its size.
        prepare: Called on each batch; None leaves batches as they are.
        steps: How each super-batch is chosen from, without end.

    Raises:
        ValueError: if batches differ in structure or size, a super-batch is not a multiple of
            theirs, or ``prepare`` does not keep the rows, or can use none of a super-batch.
    """
    reader = _Reader(declared, prepare, next(steps))
    for batch in batches:
        reader.add(batch)
        if reader.is_full:
            yield reader.flush()
            reader.step = next(steps)
    if reader.num_rows > 0:
        yield reader.flush()


class _Reader:
    """Batches read since the last super-batch; checks that they go together."""

    def __init__(self, declared: Declared, prepare: Prepare | None, step: Step) -> None:
        self._declared = declared
        self._prepare = prepare
        self.step = step
        self._batch_size: int | None = declared.batch_size
        self._structure: dict[str, str] | None = None
        self._short: int | None = None
        self._usable: list[Batch] = []
        self._skipped: dict[int, str] = {}
        self.num_rows = 0

    @property
    def is_full(self) -> bool:
        return self.num_rows == self.step.super_batch_size

    def add(self, batch: Batch) -> None:
        rows = num_examples(batch)
        if not collates_columns(self._declared.source):
            check_not_per_example(batch, self._batch_size or rows)
        if self._batch_size in (None, rows):
            check_not_square(batch)
        self._check_size(rows)
        used = _prepared(self._prepare, batch)
        if used.output is not None:
            self._check_structure(structure(used.output))
            self._usable.append(used.output)
        self._skipped |= named(used.reasons, batch, first_row=self.num_rows)
        self.num_rows += rows
        size, each = self.step.super_batch_size, self._batch_size or rows
        if self.num_rows > size or (self.is_full and size % each != 0):
            raise ValueError(self._size_error(each))

    def flush(self) -> SuperBatch:
        super_batch = SuperBatch(
            step=self.step,
            candidates=self._candidates(),
            num_rows=self.num_rows,
            batch_size=self._batch_size or self.num_rows,
            skipped=self._skipped,
            source_state=state_of(self._declared.source),
        )
        self._usable, self._skipped, self.num_rows = [], {}, 0
        return super_batch

    def _candidates(self) -> Batch:
        if not self._usable:
            raise ValueError(
                f"a run has to be able to use some rows, but of {self.num_rows} it can use none: "
                f"{listed(self._skipped)}; mend the data, or prepare"
            )
        usable = concat(self._usable)
        if not self._skipped:
            return usable
        # Every rank has a row for each candidate: a skipped one's holds the first usable values.
        place = torch.zeros(self.num_rows, dtype=torch.int64)
        is_usable = torch.ones(self.num_rows, dtype=torch.bool)
        is_usable[list(self._skipped)] = False
        place[is_usable] = torch.arange(int(is_usable.sum()))
        return take(usable, place)

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
        error = size_error(self.step.super_batch_size, batch_size)
        if self._declared.batch_size is not None:
            return error
        return (
            f"{error}; if this is sub_batch_size, which uniform steps of a schedule read, say "
            f"Options(batch_size={batch_size})"
        )

    def _check_structure(self, found: dict[str, str]) -> None:
        if self._structure is None:
            self._structure = found
        if changed := difference(self._structure, found):
            name, was, now = changed
            raise ValueError(
                f"all batches of a source must have the same structure, but column {name} was "
                f"{was} and is now {now}; make collate_fn or prepare return fixed shapes, say by "
                "padding"
            )


@ending_nothing("prepare")
def _prepared(prepare: Prepare | None, batch: Batch) -> Used[Batch]:
    """The batch as ``prepare`` returns it, once it is known to have a row for each of its rows."""
    used = use(prepare or _unchanged, batch)
    if used.rows and used.output is None:
        raise ValueError("prepare must return the batch, got None; add a return")
    if used.output is not None and num_examples(used.output) != len(used.rows):
        raise ValueError(
            "prepare must return a row for each row that it is given, but returned "
            f"{num_examples(used.output)} for {len(used.rows)}; raise SkipRowsError for rows that "
            "it cannot use"
        )
    return used


def _unchanged(batch: Batch) -> Batch:
    return batch


def size_error(super_batch_size: int, batch_size: int) -> str:
    """The sentence for a super-batch that is no multiple of the source's batches."""
    multiple = max(1, round(super_batch_size / batch_size)) * batch_size
    return (
        "super_batch_size must be a multiple of the source's batch size, "
        f"got {super_batch_size} and {batch_size}; use {multiple} or change the loader's batch_size"
    )
