"""Bad samples that are left out: how many may be, and how a message names them."""

from collections.abc import Mapping

from jest_loader.batch import Batch

_NUM_SHOWN = 10  # Samples that a message names.


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
