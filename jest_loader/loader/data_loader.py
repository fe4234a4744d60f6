"""What can be told of a torch ``DataLoader``, and of kinds of it, without reading from it."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from jest_loader.batch import Batch
from jest_loader.protocols import EpochSource, Source

_WHOLE = ("RandomSampler", "SequentialSampler")  # By name, since torchdata has its own kind.


def sampler_of(loader: "DataLoader[Any]") -> Any:
    """What draws the rows of a loader's batches; None where its ``batch_sampler`` hides it."""
    if loader.batch_sampler is None:
        return loader.sampler
    return getattr(loader.batch_sampler, "sampler", None)


def set_epoch(source: Source, epoch: int) -> None:
    """Let the next pass be that of ``epoch``, where a source or what it draws from has epochs."""
    if isinstance(source, EpochSource):
        source.set_epoch(epoch)
    elif isinstance(source, DataLoader):
        for part in (source.batch_sampler, sampler_of(source), source.dataset):
            if isinstance(part, EpochSource):
                part.set_epoch(epoch)


def begun(batches: Iterator[Batch], source: Source, *, prefetch: int) -> Iterator[Batch]:
    """A pass over a loader on one of several ranks, its first batch drawn.

    Loaders that Accelerate has prepared talk with the other ranks when they begin. That must not be
    in a reading thread, while the training loop's thread talks with them too.

    Raises:
        ValueError: if it talks with them for each batch.
    """
    if not isinstance(source, DataLoader):
        return batches
    if prefetch > 0 and type(source).__name__ == "DataLoaderDispatcher":
        raise ValueError(
            "a source must not talk with other ranks from the thread that reads ahead, but "
            "accelerate's DataLoaderDispatcher does for each batch; pass the loader itself rather "
            "than what prepare() returned, or Options(prefetch=0)"
        )
    return chain([*islice(batches, 1)], batches)


def num_undivided_rows(source: Source) -> int:
    """The rows of a data set all of which a loader draws on every rank; 0 if not known."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return 0
    if source.batch_sampler is not None and type(source.batch_sampler).__name__ != "BatchSampler":
        return 0
    dataset: Any = source.dataset
    sampler = sampler_of(source)
    try:
        is_whole = type(sampler).__name__ in _WHOLE and len(sampler) == len(dataset)
    except TypeError:
        return 0
    return len(dataset) if is_whole else 0
