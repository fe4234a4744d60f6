"""The row of each sample id."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.ragged import Int64Array


@dataclass(frozen=True)
class SampleIndex:
    """The row of each sample id.

    Args:
        num_rows: How many rows there are.
        ids: Int64 [rows], the sample ids, ascending; None if the ids are the rows.
        rows: Int64 [rows], the row of each of ``ids``.
        check: Called before the arrays are touched; raises ``ValueError`` if they were changed.
    """

    num_rows: int
    ids: Int64Array | None = None
    rows: Int64Array | None = None
    check: Callable[[], None] | None = None

    @classmethod
    def of(cls, ids: Int64Array) -> "SampleIndex":
        """The index of rows whose sample ids are ``ids``.

        Raises:
            ValueError: if an id comes twice.
        """
        if np.array_equal(ids, np.arange(len(ids))):
            return cls(len(ids))
        rows = np.argsort(ids, kind="stable")
        ascending = ids[rows]
        twice = ascending[1:][ascending[1:] == ascending[:-1]]
        if len(twice) > 0:
            raise ValueError(
                f"each sample id must come once, but {len(np.unique(twice))} came again (first "
                f"{int(twice[0])}); read one epoch, without replacement"
            )
        return cls(len(ids), ascending, rows)

    @classmethod
    def of_rows(
        cls, ids: "NDArray[Any] | Tensor | SampleIndex | None", num_rows: int
    ) -> "SampleIndex":
        """The index of ``num_rows`` rows, whose ids may be given.

        Raises:
            ValueError: if the ids are no whole numbers, one for each row, or one comes twice.
        """
        if isinstance(ids, SampleIndex):
            return ids
        if ids is None:
            return cls(num_rows)
        given = np.asarray(ids)
        if given.shape != (num_rows,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"ids must be whole numbers of shape ({num_rows},), one for each row, got "
                f"{given.dtype} of {given.shape}"
            )
        return cls.of(given.astype(np.int64, copy=False))

    def find(self, ids: Int64Array) -> Int64Array:
        """The row of each id, -1 for ids that have none.

        Raises:
            ValueError: as ``check``.
        """
        if self.ids is None or self.rows is None:
            return np.where((ids >= 0) & (ids < self.num_rows), ids, -1)
        if self.check is not None:
            self.check()
        place = np.searchsorted(self.ids, ids).clip(max=self.num_rows - 1)
        return np.where(self.ids[place] == ids, self.rows[place], -1)


def sample_ids(batch: Batch, column: str) -> Int64Array:
    """The batch's column of sample ids, int64 [B].

    Raises:
        ValueError: if there is no such column, or it holds anything else.
    """
    try:
        found = batch[column]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            "a reference cache finds examples by sample id, but the batch has no column "
            f"{column!r}; add the numbers of its examples, or pass id_column"
        ) from error
    ids = np.asarray(found.cpu() if isinstance(found, Tensor) else found)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise ValueError(
            f"sample ids must be one whole number per example, got {ids.dtype} of {ids.shape}"
        )
    return ids.astype(np.int64, copy=False)
