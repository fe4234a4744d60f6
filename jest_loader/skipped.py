"""Bad samples that are left out: how many may be, and how a message names them."""

from collections.abc import Mapping
from typing import Any

from jest_loader.batch import Batch

_NUM_SHOWN = 10  # Samples that a message names.


class SkipRowsError(ValueError):
    """Raised by a ``materialize`` function or a scorer for rows that it cannot use.

    ``JestDataset`` leaves those rows out, counts them and goes on with others.

    Args:
        reasons: What is wrong with each bad row of the batch it was called with, by row number.

    Raises:
        ValueError: if it names no row.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        if not self.reasons:
            raise ValueError("SkipRowsError must name the rows that are bad, got none")
        row, reason = next(iter(self.reasons.items()))
        super().__init__(f"{len(self.reasons)} bad samples, the first at row {row}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return SkipRowsError, (self.reasons,)


def skip_budget(num_candidates: int, max_skipped_fraction: float) -> int:
    """How many of the candidates may be left out: at least one, unless none may."""
    if max_skipped_fraction == 0:
        return 0
    return max(1, int(max_skipped_fraction * num_candidates))


def named(reasons: Mapping[int, str], batch: Batch) -> tuple[str, ...]:
    """What is wrong with each row, by its sample id where the batch has one, or by its number."""
    ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    return tuple(
        f"row {row}: {reason}" if ids is None else f"sample {ids[row]}: {reason}"
        for row, reason in reasons.items()
    )


def listed(reasons: Mapping[int, str], batch: Batch) -> str:
    """The same as one text, of the first few."""
    names = named(reasons, batch)
    more = len(names) - _NUM_SHOWN
    return "; ".join(names[:_NUM_SHOWN]) + (f"; and {more} more" if more > 0 else "")
