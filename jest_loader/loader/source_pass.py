"""A pass over a source's batches: whether it was read to its end, and what begins the next one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jest_loader.batch import Batch
from jest_loader.protocols import Source


@runtime_checkable
class ResettableSource(Source, Protocol):
    """A source that is its own iterator and stays at its end until it is reset, as DALI's."""

    def __next__(self) -> Batch:
        """The next batch of the pass under way."""
        ...

    def reset(self) -> None:
        """Let the next batch be the first of another pass; some do so at the end of one only."""
        ...


@dataclass
class Progress:
    """How far a pass has come. It does not hold the source's iterator, which may hold processes."""

    num_batches: int = 0
    is_over: bool = False


def read(source: Source, progress: Progress, *, may_end_first: bool) -> Iterator[Batch]:
    """A pass over a source, which is begun at once and noted as it is read.

    Args:
        source: Yields batches. Where a pass is empty and it has ``reset()``, it stands at its end,
            and that is called.
        progress: Is kept up to date.
        may_end_first: Whether an empty pass may be followed by another: a source whose state was
            taken at the end of an epoch may first end that, as StreamingDataset does.
    """
    return _noted(iter(source), source, progress, may_end_first)


def leave(source: Source, progress: Progress) -> None:
    """Bring a source that is its own iterator from within a pass to the start of the next one.

    It is read to the end where it has one, since DALI ignores ``reset()`` before that.
    """
    if progress.is_over or not isinstance(source, ResettableSource):
        return
    if (num_batches := _length(source)) == 0:
        source.reset()
        return
    for _ in range(progress.num_batches, num_batches + 1):
        if next(source, None) is None:
            return


def _noted(
    batches: Iterator[Batch], source: Source, progress: Progress, may_end_first: bool
) -> Iterator[Batch]:
    yield from _counted(batches, progress)
    if progress.num_batches == 0 and isinstance(source, ResettableSource):
        source.reset()
        yield from _counted(iter(source), progress)
    elif progress.num_batches == 0 and may_end_first:
        yield from _counted(iter(source), progress)
    progress.is_over = True


def _counted(batches: Iterator[Batch], progress: Progress) -> Iterator[Batch]:
    for batch in batches:
        progress.num_batches += 1
        yield batch


def _length(source: Any) -> int:
    """Batches of a pass; 0 if they are not known, or without end."""
    try:
        return len(source)
    except TypeError:
        return 0
