"""Passes over a source that is checked, as the rows of their batches."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from jest_loader.batch import structure
from jest_loader.loader.data_loader import set_epoch
from jest_loader.protocols import Source
from jest_loader.testing.rows import row_keys

Rows = list[list[Hashable]]
"""What tells the rows of each batch of a pass apart."""

NUM_EPOCHS = 3
"""How many are read."""

LEAST_BATCHES = 4
"""Batches that an epoch must have, so that four ranks have one each."""


@dataclass(frozen=True)
class Subject:
    """The source that is checked.

    Args:
        make: Makes it anew.
        id_column: What tells its rows apart; None compares all that they hold.
    """

    make: Callable[[], Source]
    id_column: str | None

    def epochs(self, source: Source) -> list[Rows]:
        """The first epochs of a new source, each read to its end.

        Raises:
            AssertionError: as ``read``.
            ValueError: if they are too short to be checked.
        """
        found = [self.epoch(source, epoch) for epoch in range(NUM_EPOCHS)]
        if (shortest := min(map(len, found))) < LEAST_BATCHES:
            raise ValueError(
                f"each epoch must have at least {LEAST_BATCHES} batches to be checked, got "
                f"{shortest}; use smaller batches or more rows, and begin each pass anew"
            )
        return found

    def epoch(self, source: Source, epoch: int, where: str = "") -> Rows:
        """The next pass of a source, told that it is this epoch."""
        set_epoch(source, epoch)
        return self.read(source, where or f"epoch {epoch}")

    def read(self, batches: Iterable[Any], where: str) -> Rows:
        """The rows of all batches.

        Raises:
            AssertionError: if a batch changes while later ones are drawn, or is built otherwise.
        """
        kept = [
            (batch, row_keys(batch, self.id_column), row_keys(batch, None)) for batch in batches
        ]
        for number, (batch, _, contents) in enumerate(kept):
            assert structure(batch) == structure(kept[0][0]), (
                f"batch {number} of {where} must have the columns of batch 0, got "
                f"{structure(batch)} and {structure(kept[0][0])}; yield the same ones each time"
            )
            assert row_keys(batch, None) == contents, (
                f"batch {number} of {where} changed while later ones were drawn; yield copies, not "
                "views of memory that is used again"
            )
        return [rows for _, rows, _ in kept]


def check_equal(found: Rows, expected: Rows, where: str, remedy: str) -> None:
    """Raise ``AssertionError`` unless two passes are equal, naming where they part."""
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"{where}, batch {number} has other rows or another order; {remedy}"
    assert len(found) == len(expected), (
        f"{where}, there were {len(found)} batches, not {len(expected)}; {remedy}"
    )


def check_each_once(parts: Iterable[tuple[str, Iterable[Hashable]]], where: str) -> None:
    """Raise ``AssertionError`` if a row is in two parts, given by name, or in one twice."""
    first: dict[Hashable, str] = {}
    for name, rows in parts:
        for row in rows:
            assert row not in first, (
                f"{where} has row {row} in {first[row]} and in {name}; deliver each row once (if "
                "rows of the data are equal, name the id_column that tells them apart)"
            )
            first[row] = name


def flat(rows: Rows) -> list[Hashable]:
    """The rows of a pass without their batches."""
    return [row for batch in rows for row in batch]
