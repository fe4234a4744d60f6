"""What can be told of a torch ``DataLoader``, and of kinds of it, without reading from it."""

from collections.abc import Iterator
from inspect import signature
from itertools import chain, islice
from typing import Any, TypeGuard

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from jest_loader.batch import Batch
from jest_loader.protocols import EpochSource, ShardableSource, Source

_WHOLE = ("RandomSampler", "SequentialSampler")  # By name, since torchdata has its own kind.


def loader_of(source: Any) -> Any:
    """The DataLoader that a source is, or whose batches it hands on, as timm's PrefetchLoader does.

    The source itself where there is none, or one with another number of batches.
    """
    inner = getattr(source, "loader", None)
    if isinstance(source, DataLoader) or not isinstance(inner, DataLoader):
        return source
    try:
        return inner if len(inner) == len(source) else source
    except TypeError:  # Without a length, nothing says that the batches are the same.
        return source


def batch_sampler_of(loader: "DataLoader[Any]") -> Any:
    """What draws the rows of each batch; None where the loader does not batch."""
    batch_sampler: Any = loader.batch_sampler
    if isinstance(getattr(batch_sampler, "sampler", None), BatchSampler):
        return batch_sampler.sampler  # Repeated without end, by timm's MultiEpochsDataLoader.
    return batch_sampler


def sampler_of(loader: "DataLoader[Any]") -> Any:
    """What draws the rows of a loader's batches; None where its ``batch_sampler`` hides it."""
    if loader.batch_sampler is None:
        return loader.sampler
    return getattr(batch_sampler_of(loader), "sampler", None)


def set_epoch(source: Source, epoch: int) -> None:
    """Let the next pass be that of ``epoch``, where a source or what it draws from has epochs."""
    loader = source if isinstance(source, DataLoader) else getattr(source, "loader", None)
    if isinstance(source, EpochSource):
        source.set_epoch(epoch)
    elif isinstance(loader, DataLoader):
        for part in (batch_sampler_of(loader), sampler_of(loader), loader.dataset):
            if isinstance(part, EpochSource):
                part.set_epoch(epoch)


def is_shardable(source: Source) -> TypeGuard[ShardableSource]:
    """Whether a source deals its rows to ranks.

    Hugging Face's ``shard(num_shards, index)`` is another method, which returns a part.
    """
    if not isinstance(source, ShardableSource):
        return False
    return next(iter(signature(source.shard).parameters), "") != "num_shards"


def collates_columns(source: Source) -> bool:
    """Whether lists in a loader's batches are columns, as ``default_collate`` makes of tuples."""
    return isinstance(source, DataLoader) and source.collate_fn is default_collate


def begun(batches: Iterator[Batch], source: Source, *, prefetch: int) -> Iterator[Batch]:
    """A pass over a loader on one of several ranks, its first batch drawn.

    Loaders that Accelerate has prepared talk with the other ranks when they begin. That must not be
    in a reading thread, while the training loop's thread talks with them too.

    Raises:
        ValueError: if it talks with them for each batch.
    """
    if not isinstance(loader_of(source), DataLoader):
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
    loader = loader_of(source)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return 0
    batch_sampler = batch_sampler_of(loader)
    if batch_sampler is not None and type(batch_sampler).__name__ != "BatchSampler":
        return 0
    dataset: Any = loader.dataset
    sampler = sampler_of(loader)
    try:
        is_whole = type(sampler).__name__ in _WHOLE and len(sampler) == len(dataset)
    except TypeError:
        return 0
    return len(dataset) if is_whole else 0
