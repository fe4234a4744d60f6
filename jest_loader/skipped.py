"""Rows that are skipped: who says so, how many may be, and how a message names them."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from jest_loader.batch import Batch, num_examples, take
from jest_loader.checks import first_few, shown, whole

Output = TypeVar("Output")

SKIP_REASON = "skip_reason"
"""A column of a source's batches that says of each row why it is to be skipped, or ""."""


class SkipRowsError(ValueError):
    """Raised by ``prepare``, ``materialize`` or what runs a model for rows that it cannot use.

    They are skipped, counted and named, and the others used.

    Args:
        reasons: What is wrong with each such row of the batch it was called with, by row number.

    Raises:
        ValueError: if it is no mapping or an empty one, or a row is no whole number of at least 0.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        given: object = reasons
        if not isinstance(given, Mapping):
            raise ValueError(
                f"SkipRowsError takes the reason by row, as in {{3: 'torn'}}, got {reasons!r}"
            )
        self.reasons = {
            whole("a row of SkipRowsError", row, 0): reason for row, reason in reasons.items()
        }
        if not self.reasons:
            raise ValueError("SkipRowsError must name the rows to skip, got none")
        row, reason = next(iter(self.reasons.items()))
        super().__init__(f"{len(self.reasons)} rows to skip, the first is row {row}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return SkipRowsError, (self.reasons,)


class Used(NamedTuple, Generic[Output]):
    """What a function made of the rows that it can use.

    Args:
        output: Its output for them; None if it can use none.
        rows: Their numbers in the batch.
        reasons: What is wrong with each of the others, by number in the batch.
    """

    output: Output | None
    rows: list[int]
    reasons: dict[int, str]

    def with_reasons(self, of_output: Mapping[int, str]) -> dict[int, str]:
        """The reasons, and those that the output gives for rows of its own, by number in the batch.

        Args:
            of_output: Reasons by row of the output, such as ``Embeddings.skipped``.
        """
        return self.reasons | {self.rows[row]: reason for row, reason in of_output.items()}


def use(
    function: Callable[[Batch], Output], batch: Batch, *, rows: list[int] | None = None
) -> Used[Output]:
    """Call ``function`` on the batch, again without the rows for which it raises SkipRowsError.

    Args:
        function: What to call.
        batch: The batch.
        rows: The rows of it to call ``function`` with; None for all.

    It is not called with the column ``SKIP_REASON``, nor with rows that have a reason there.

    Raises:
        ValueError: if it names rows that it was not called with.
    """
    all_rows = list(range(num_examples(batch))) if rows is None else rows
    batch, known = without_reasons(batch)
    reasons = {row: known[row] for row in all_rows if row in known}
    good = [row for row in all_rows if row not in known]
    if rows is not None or reasons:
        batch = take(batch, torch.tensor(good, dtype=torch.int64))
    rows = good
    while rows:
        try:
            return Used(function(batch), rows, reasons)
        except SkipRowsError as error:
            check_rows(error, len(rows))
            reasons |= {rows[row]: reason for row, reason in error.reasons.items()}
            good = [row for row in range(len(rows)) if row not in error.reasons]
            rows = [rows[row] for row in good]
            batch = take(batch, torch.tensor(good, dtype=torch.int64))
    return Used(None, [], reasons)


def without_reasons(batch: Batch) -> tuple[Batch, dict[int, str]]:
    """A source's batch without its column ``SKIP_REASON``, and the reasons there, by row.

    Raises:
        ValueError: if that column is no list of text.
    """
    if not isinstance(batch, Mapping) or SKIP_REASON not in batch:
        return batch, {}
    column = batch[SKIP_REASON]
    if not isinstance(column, list) or not all(isinstance(reason, str) for reason in column):
        raise ValueError(
            f"column {SKIP_REASON!r} must be a list of text, why each row is to be skipped or "
            f"'', got {shown(repr(column))}; give the column another name if it is something else"
        )
    rest = {name: values for name, values in batch.items() if name != SKIP_REASON}
    return rest, {row: reason for row, reason in enumerate(column) if reason}


def check_rows(error: SkipRowsError, num_rows: int) -> None:
    """Raise ``ValueError`` unless all rows that the error names are rows of the batch."""
    odd = [row for row in error.reasons if row >= num_rows]
    if odd:
        raise ValueError(
            "SkipRowsError must name rows of the batch that the function was called with, from "
            f"0 to {num_rows - 1}, got {odd[0]}"
        ) from error


def skip_budget(num_candidates: int, max_skipped_fraction: float) -> int:
    """How many of the candidates may be skipped: at least one, unless none may."""
    if max_skipped_fraction == 0:
        return 0
    return max(1, int(max_skipped_fraction * num_candidates))


def named(reasons: Mapping[int, str], batch: Batch, *, first_row: int = 0) -> dict[int, str]:
    """What is wrong with each row, by its sample id where the batch has one, or by its number.

    Args:
        reasons: By row of ``batch``.
        batch: Whose rows they are.
        first_row: Number of the batch's first row, for the keys and the names returned.
    """
    ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    return {
        first_row + row: f"row {first_row + row}: {shown(reason)}"
        if ids is None
        else f"sample {shown(ids[row])}: {shown(reason)}"
        for row, reason in reasons.items()
    }


def listed(names: Mapping[int, str]) -> str:
    """What ``named`` returned as one text, the first few rows of it."""
    return first_few(list(names.values()), separator="; ")
