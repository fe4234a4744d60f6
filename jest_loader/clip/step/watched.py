"""Means of the data's columns over the sub-batches that were trained on."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jest_loader.batch import Batch
from jest_loader.checks import first_few, is_number, shown, whole
from jest_loader.ranks.ranks import Ranks


class WatchedColumns:
    """Running means of columns of numbers; reading the means starts new ones.

    Args:
        names: The columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = dict.fromkeys(names, 0.0)
        self._count = 0

    def add(self, batch: Batch, ranks: Ranks) -> None:
        """Add the rows of a step, of all ranks, which call this at once.

        Raises:
            ValueError: if a column does not hold one number per example.
        """
        if not self._sums:
            return
        sums = [float(_numbers(name, batch[name]).sum()) for name in self._sums]
        found = [float(len(batch["caption"])), *sums]
        count, *sums = ranks.all_gather(torch.tensor(found, dtype=torch.float64)).sum(0).tolist()
        for name, total in zip(self._sums, sums, strict=True):
            self._sums[name] += total
        self._count += int(count)

    def means(self) -> dict[str, float]:
        """The means since the last call; empty if no row was added since."""
        means = {name: total / self._count for name, total in self._sums.items() if self._count}
        self._sums, self._count = dict.fromkeys(self._sums, 0.0), 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums and their number of rows."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: if it is of other columns, or its values cannot be.
        """
        sums = state_dict["sums"]
        if sums.keys() != self._sums.keys() or not all(
            is_number(total) and math.isfinite(total) for total in sums.values()
        ):
            raise ValueError(
                "the state of watched columns must have a finite sum of each of "
                f"{first_few(list(self._sums)) or 'none'}, got {shown(sums)}; load another"
            )
        self._count = whole("rows of the state of watched columns", state_dict["count"], 0)
        self._sums = dict(sums)


def _numbers(name: str, column: Any) -> NDArray[np.float64]:
    values = np.asarray(column)
    if values.dtype.kind in "biufU" and values.ndim == 1:
        try:
            # Text is read as numbers, since `jest-loader pack` keeps columns as text.
            numbers = values.astype(np.float64)
        except ValueError:
            numbers = np.array([np.nan])
        if np.isfinite(numbers).all():
            return numbers
    raise ValueError(
        f"data.watch_columns must hold one finite number per example, but column {name!r} holds "
        f"{values.dtype} of shape {values.shape}, such as {values.tolist()[0]!r}; leave it out"
    )
