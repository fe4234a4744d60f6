"""What a source says of itself before it is read: the size of its batches, and its length."""

import math
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from jest_loader.batch import num_examples
from jest_loader.loader.data_loader import sampler_of
from jest_loader.protocols import BatchedSource, CountedSource, Source


class Promise(NamedTuple):
    """The rows of a whole pass over a source, as its length says."""

    fewest: int = 0
    most: float = math.inf


def declared_batch_size(source: Source) -> int | None:
    """The rows of a list's first batch, or the ``batch_size`` that the source declares."""
    if isinstance(source, Sequence) and len(source) > 0:
        return num_examples(source[0])
    sized: object = source
    if isinstance(source, DataLoader) and isinstance(source.batch_sampler, BatchSampler):
        sized = source.batch_sampler  # Of one that is given, the loader itself knows no size.
    batch_size: object = sized.batch_size if isinstance(sized, BatchedSource) else None
    return batch_size if isinstance(batch_size, int) and batch_size > 0 else None


def num_full_rows(source: Any, num_shards: int = 1) -> int:
    """Examples per epoch in full batches, known without reading any.

    Args:
        source: Where they come from.
        num_shards: Among how many ranks the source is going to be divided.

    Raises:
        TypeError: if the source has no length or no batch size.
    """
    if isinstance(source, Sequence) and len(source) > 0:
        batch_size = num_examples(source[0])
        return batch_size * (len(source) - (num_examples(source[-1]) < batch_size))
    declared = declared_batch_size(source)
    if declared is None or not isinstance(source, Sized):
        raise TypeError(
            "a JestDataset has a length only if its source has a length and a batch_size, "
            f"but {type(source).__name__} does not have both"
        )
    if isinstance(source, DataLoader):
        return _num_full_batches(source, declared) * declared
    num_rows: object = source.num_examples if isinstance(source, CountedSource) else None
    if isinstance(num_rows, int):
        return num_rows // num_shards // declared * declared
    return len(source) // num_shards * declared


def promised(source: Any, batch_size: int) -> Promise:
    """What the length of a source of such batches promises; nothing if that is not known."""
    try:
        full = num_full_rows(source)
    except TypeError:
        if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
            return Promise()
        try:
            full = (len(source) - 1) * batch_size  # The last batch may be short.
        except TypeError:  # A sampler without a length.
            return Promise()
    fewest = full
    if isinstance(source, DataLoader) and isinstance(source.dataset, IterableDataset):
        # Each worker ends with a batch of its own, which is short and may be dropped.
        fewest -= source.num_workers * batch_size
    return Promise(max(0, fewest), full + batch_size)


def _num_full_batches(loader: "DataLoader[Any]", batch_size: int) -> int:
    if isinstance(loader.dataset, IterableDataset):
        num_rows: object = loader.dataset
        return len(num_rows) // batch_size  # type: ignore[arg-type] # Its TypeError is the caller's.
    sampler: object = sampler_of(loader)
    if not isinstance(sampler, Sized):
        raise TypeError(
            "a JestDataset has a length only if its source's sampler has one, but a "
            f"{type(sampler).__name__} has none; give it a __len__, or do not ask for the length"
        )
    return min(len(loader), len(sampler) // batch_size)
