"""What a source says of itself before it is read: the size of its batches, and its length."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from jest_loader.batch import num_examples
from jest_loader.loader.data_loader import batch_sampler_of, loader_of, sampler_of
from jest_loader.protocols import BatchedSource, CountedSource


class Promise(NamedTuple):
    """The rows of a whole pass over a source, as its length says."""

    fewest: int = 0
    most: float = math.inf


@dataclass(frozen=True)
class Declared:
    """What is known of a source's size before it is read: by itself, or as it was told.

    Args:
        source: Yields batches.
        told_batch_size: Rows of its batches, where it does not say.
        told_num_examples: Rows of a pass on this rank, where it does not say.
    """

    source: Any
    told_batch_size: int | None = None
    told_num_examples: int | None = None

    def check(self) -> None:
        """Raise ``ValueError`` if it was told what the source says otherwise."""
        own = Declared(self.source)
        said = own.batch_size
        if said is not None and self.told_batch_size not in (None, said):
            raise ValueError(
                f"batch_size must be the source's own, got {self.told_batch_size} and {said}; "
                "leave it out"
            )
        if self.told_num_examples is None:
            return
        if self.batch_size is None:
            raise ValueError("num_examples needs batch_size, the rows of the source's batches")
        if own.full_rows() is not None:
            raise ValueError(
                f"num_examples is for sources without a length, and a {type(self.source).__name__} "
                "has one; leave it out"
            )

    @property
    def batch_size(self) -> int | None:
        """Rows of a list's first batch, or of each as the source declares; None if not known."""
        source = self.source
        if isinstance(source, Sequence) and len(source) > 0:
            return num_examples(source[0])
        loader = loader_of(source)
        if isinstance(loader, DataLoader):  # Which knows no size where a batch_sampler is given.
            batch_sampler = batch_sampler_of(loader)
            source = batch_sampler if isinstance(batch_sampler, BatchSampler) else loader
        batch_size: object = source.batch_size if isinstance(source, BatchedSource) else None
        if isinstance(batch_size, int) and batch_size > 0:
            return batch_size
        return self.told_batch_size

    def full_rows(self, num_shards: int = 1) -> int | None:
        """Examples per epoch in full batches; None if not known.

        Args:
            num_shards: Among how many ranks the source is going to be divided.
        """
        source, batch_size = self.source, self.batch_size
        if batch_size is None:
            return None
        if self.told_num_examples is not None:
            return self.told_num_examples // batch_size * batch_size
        if isinstance(source, Sequence) and len(source) > 0:
            return batch_size * (len(source) - (num_examples(source[-1]) < batch_size))
        try:
            loader = loader_of(source)
            if isinstance(loader, DataLoader):
                return _num_full_batches(loader, batch_size) * batch_size
            num_rows: object = source.num_examples if isinstance(source, CountedSource) else None
            if isinstance(num_rows, int):
                return num_rows // num_shards // batch_size * batch_size
            # A length of none says nothing: DALI's iterators without end have it.
            return len(source) // num_shards * batch_size or None
        except TypeError:  # It has no length.
            return None

    def known_rows(self, num_shards: int) -> int:
        """As ``full_rows``; raises ``TypeError`` if they are not known."""
        rows = self.full_rows(num_shards)
        if rows is None:
            raise TypeError(
                "a JestDataset has a length only if its source has a length and a batch_size, but "
                f"{type(self.source).__name__} does not have both; say "
                "Options(batch_size=..., num_examples=...)"
            )
        return rows

    def promise(self, batch_size: int) -> Promise:
        """What the source's length promises, if its batches are of that size."""
        loader, full = loader_of(self.source), self.full_rows()
        is_loader = isinstance(loader, DataLoader)
        is_iterable = is_loader and isinstance(loader.dataset, IterableDataset)
        if full is None and is_loader and not is_iterable:
            with suppress(TypeError):  # Of a sampler without a length.
                full = (len(loader) - 1) * batch_size  # The last batch may be short.
        if full is None:
            return Promise()
        # Each worker ends with a batch of its own, which is short and may be dropped.
        lost = loader.num_workers * batch_size if is_iterable else 0
        if not (is_loader or isinstance(loader, Sequence | CountedSource)):
            lost = batch_size - 1  # A length in batches, the last of which may be short.
        return Promise(max(0, full - lost), full + batch_size)


def _num_full_batches(loader: "DataLoader[Any]", batch_size: int) -> int:
    """The batches of a loader that are full; raises ``TypeError`` if that cannot be known."""
    rows: Any = loader.dataset
    if isinstance(rows, IterableDataset):
        return len(rows) // batch_size  # type: ignore[arg-type] # Its TypeError is the caller's.
    return min(len(loader), len(sampler_of(loader)) // batch_size)
