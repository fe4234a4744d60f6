"""Whether each rank reads rows of its own: ranks that read the same train on them twice."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import Batch, columns, num_examples, take
from jest_loader.loader.data_loader import num_undivided_rows
from jest_loader.protocols import Source
from jest_loader.ragged import RaggedBytes
from jest_loader.ranks.agreement import Agreement

_MOST_ROWS = 64  # Of the first batch that are compared.
_REMEDY = (
    "give the loader sampler=DistributedSampler(dataset), or use a source that deals its rows "
    "itself, such as MdsSource; where each rank does have rows of its own, say "
    "Options(own_rows=True)"
)


class OwnRows:
    """Looks whether the ranks read rows of their own in a pass.

    Args:
        source: This rank's.
        agreement: With the other ranks.
        epoch: Of the pass.
    """

    def __init__(self, source: Source, agreement: Agreement, epoch: int) -> None:
        self._source = source
        self._agreement = agreement
        self._epoch = epoch
        self._digest: int | None = None  # Of the first rows.
        self._compared = False

    def check_loader(self) -> None:
        """Raise ``ValueError`` on all ranks if each draws all rows of a data set of one size."""
        with self._agreement.step("comparing their samplers") as agreed:
            agreed.numbers = (num_undivided_rows(self._source),)
        sizes = {num_rows for (num_rows,) in agreed.everyones}
        if len(sizes) == 1 and sizes != {0}:
            raise ValueError(
                f"each of {self._agreement.ranks.size} ranks must read rows of its own, but its "
                f"DataLoader draws all {sizes.pop()} rows of the dataset on each; {_REMEDY}"
            )

    def noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, the first of which is to be compared."""
        for batch in batches:
            if self._digest is None:
                self._digest = _digest_of_rows(batch)
            yield batch

    def check_first(self) -> None:
        """Raise ``ValueError`` on all ranks if two of them read the same first rows; once."""
        if self._compared:
            return
        self._compared = True
        with self._agreement.step("comparing their first rows") as agreed:
            agreed.numbers = (self._digest or 0,)  # Without a row there is nothing to compare.
        digests = [digest for (digest,) in agreed.everyones]
        for rank, digest in enumerate(digests):
            if digest and (first := digests.index(digest)) < rank:
                raise ValueError(
                    f"each rank must read rows of its own, but ranks {first} and {rank} began "
                    f"epoch {self._epoch} with the same ones; {_REMEDY}"
                )


def _digest_of_rows(batch: Batch) -> int:
    """A number for the first rows of a batch, above 0."""
    rows = take(batch, torch.arange(min(_MOST_ROWS, num_examples(batch))))
    digest = hashlib.blake2b(digest_size=7)
    for name, column in columns(rows):
        digest.update(repr(name).encode())
        digest.update(_bytes_of(column))
    return int.from_bytes(digest.digest()) + 1


def _bytes_of(value: Any) -> bytes:
    """What tells a column, or a value in one, from others."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.tobytes()
    if isinstance(value, np.ndarray | list | tuple | RaggedBytes):
        return b",".join(map(_bytes_of, value))  # The text of a large array leaves most of it out.
    return repr(value).encode()
