"""Which published row belongs to each example of a data set."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jest_loader.batch import num_examples
from jest_loader.checks import shown
from jest_loader.protocols import EpochSource, SeekableSource, Source
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.published.keys import Keys
from jest_loader.reference_cache.published.published import PublishedEmbeddings
from jest_loader.reference_cache.sample_index import SampleIndex, sample_ids

BY_ORDER = "order"

Duplicates = Literal["error", "first"]
"""What to do with published ids that come twice: refuse them, or take the first row of each."""


@dataclass(frozen=True)
class Joined:
    """Examples of a data set, in the order of their published rows, those without one at the end.

    Args:
        ids: Int64 [examples], their sample ids.
        rows: Int64 [examples], the published row of each, -1 where there is none.
        num_lacking: Examples without a published row.
        num_unused: Published rows without an example.
        num_again: Examples whose id another example has had before.
        num_published_again: Published rows whose id another row has had before.
    """

    ids: Int64Array
    rows: Int64Array
    num_lacking: int
    num_unused: int
    num_again: int
    num_published_again: int

    @property
    def num_found(self) -> int:
        """Examples that have a published row."""
        return len(self.ids) - self.num_lacking

    def described(self, join_by: str) -> str:
        """One line on what was found and what was not."""
        return (
            f"joined by {shown(join_by)}: {self.num_found} of {len(self.ids)} examples have "
            f"published embeddings, {self.num_lacking} have none; {self.num_unused} published rows "
            f"belong to no example; ids come again in {self.num_again} examples and "
            f"{self.num_published_again} published rows"
        )

    def fingerprint(self) -> str:
        """A digest of which row belongs to which example."""
        digest = hashlib.blake2b(digest_size=16)
        for values in (self.ids, self.rows):
            digest.update(np.ascontiguousarray(values, dtype="<i8").data)
        return digest.hexdigest()


def join(
    source: Source,
    published: PublishedEmbeddings,
    *,
    join_by: str,
    id_column: str,
    duplicates: Duplicates,
    advance: Callable[[int], None],
) -> Joined:
    """Join a source and published embeddings, by an id or by their order.

    Raises:
        ValueError: if a column of ids is missing or holds something else, none of the ids is found,
            published ids come twice, or counts do not agree where the order decides.
    """
    if duplicates not in ("error", "first"):
        raise ValueError(f"duplicates must be 'error' or 'first', got {shown(repr(duplicates))}")
    samples: list[Int64Array] = []
    columns = _columns(source, join_by, id_column, samples, advance)
    if join_by == BY_ORDER:
        for _ in columns:
            pass
        return _by_order(_all(samples), len(published))
    wanted = Keys.of(columns, "the data")
    ids = _all(samples)
    held = Keys.of(published.ids(), "the embeddings")
    if len(held) != len(published):
        raise ValueError(
            f"embeddings must have a row for each id, but there are {len(published)} rows and "
            f"{len(held)} ids; fetch them again"
        )
    num_held = len(held.first_rows())
    if num_held < len(held) and duplicates == "error":
        raise ValueError(
            f"each published row must have an id of its own, but {len(held) - num_held} of "
            f"{len(held)} have one that came before; name another id_column, or say "
            "duplicates='first' to take the first row of each"
        )
    found = held.rows_of(wanted)
    if (found < 0).all():
        raise ValueError(
            f"some examples must have published embeddings, but none of {len(found)} has; the "
            f"first id in column {join_by!r} of the data is {wanted.first}, and of the embeddings "
            f"{held.first}; name other columns"
        )
    num_used = int(np.count_nonzero(np.bincount(found[found >= 0], minlength=len(held))))
    return _ordered(
        ids,
        found,
        num_unused=len(held) - num_used,
        num_again=len(wanted) - len(wanted.first_rows()),
        num_published_again=len(held) - num_held,
    )


def _all(samples: list[Int64Array]) -> Int64Array:
    """All sample ids; raises ``ValueError`` if there are none, or one comes twice."""
    if not samples:
        raise ValueError("the source must hold at least one example, but yielded none")
    ids = np.concatenate(samples)
    SampleIndex.of(ids)
    return ids


def _by_order(ids: Int64Array, num_published: int) -> Joined:
    if len(ids) != num_published:
        raise ValueError(
            "data and embeddings that are joined by order must have as many rows, but have "
            f"{len(ids)} and {num_published}; join them by an id"
        )
    return Joined(ids, np.arange(num_published), 0, 0, 0, 0)


def _ordered(
    ids: Int64Array, rows: Int64Array, *, num_unused: int, num_again: int, num_published_again: int
) -> Joined:
    lacking = rows < 0
    order = np.argsort(np.where(lacking, np.iinfo(np.int64).max, rows), kind="stable")
    num_lacking = int(lacking.sum())
    return Joined(ids[order], rows[order], num_lacking, num_unused, num_again, num_published_again)


def _columns(
    source: Source,
    join_by: str,
    id_column: str,
    samples: list[Int64Array],
    advance: Callable[[int], None],
) -> Iterator[Any]:
    """The ids to join by, a batch at a time; the sample ids are appended to ``samples``."""
    if isinstance(source, EpochSource):
        source.set_epoch(0)
    if isinstance(source, SeekableSource):
        source.seek(0)
    for batch in source:
        samples.append(sample_ids(batch, id_column))
        advance(num_examples(batch))
        if join_by == BY_ORDER:
            yield None
            continue
        try:
            yield batch[join_by]
        except (KeyError, TypeError, IndexError) as error:
            known = f", it has {', '.join(sorted(batch))}" if isinstance(batch, dict) else ""
            raise ValueError(
                f"the data has no column {join_by!r} to join by{shown(known)}; name another"
            ) from error
