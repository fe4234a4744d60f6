"""Which candidates of a super-batch the reference was trained on, and leaving them out."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.protocols import WithReference
from jest_loader.scoring.turns import TakesTurns
from jest_loader.seen import SEEN, UNKNOWN, KnowsSeen, Marks, SeenFunction, marks_of

MOST_SHARE = 0.05
"""The share of seen candidates from which on a warning is due."""

_LOG = logging.getLogger(__name__)


class SeenNumbers(NamedTuple):
    """How many examples of a super-batch the reference was trained on, of all ranks.

    Args:
        candidates: Of the candidates.
        known: Candidates of which it is known.
        chosen: Of the sub-batch.
        chosen_known: Of the sub-batch, those of which it is known.
    """

    candidates: int = 0
    known: int = 0
    chosen: int = 0
    chosen_known: int = 0

    @property
    def of_candidates(self) -> float | None:
        """The share of the candidates; None where nothing is known."""
        return self.candidates / self.known if self.known else None

    @property
    def of_chosen(self) -> float | None:
        """The share of the sub-batch; None where nothing is known."""
        return self.chosen / self.chosen_known if self.chosen_known else None


@dataclass(frozen=True)
class SeenCandidates:
    """Which of a rank's candidates the reference was trained on.

    Args:
        marks: Of each candidate; UNKNOWN also of those that are skipped.
        excluded: Candidates that are left out.
    """

    marks: Marks
    excluded: frozenset[int] = frozenset()

    @classmethod
    def among(
        cls,
        candidates: Batch,
        size: int,
        scorer: object,
        skipped: Collection[int],
        *,
        exclude: bool,
    ) -> "SeenCandidates":
        """Those of a super-batch.

        Args:
            candidates: The super-batch.
            size: Its candidates.
            scorer: What scores them, whose reference may know.
            skipped: Candidates that hold nothing of their own.
            exclude: Whether to leave out those that were seen.

        Raises:
            ValueError: if they cannot be left out, as it is not known which they are.
        """
        seen = seen_function(scorer)
        if seen is None:
            return cls(np.full(size, UNKNOWN, np.int8))
        marks = marks_of(seen, candidates).copy()
        marks[list(skipped)] = 0
        num_unknown = int((marks == UNKNOWN).sum())
        marks[list(skipped)] = UNKNOWN
        if exclude and num_unknown:
            raise ValueError(
                "exclude_seen=True needs to know of every candidate whether the reference was "
                f"trained on it, but of {num_unknown} of {size} it is not known, as where it was "
                "trained on more rows than a record holds; cross-fit references, or use one that "
                "was trained on other data"
            )
        found = np.flatnonzero(marks == SEEN).tolist() if exclude else []
        return cls(marks, frozenset(found))

    def numbers(self, chosen: Tensor) -> SeenNumbers:
        """How many were seen, of all and of ``chosen`` (int64 [n], with other ranks' rows)."""
        index = chosen.numpy()
        own = self.marks[index[index < len(self.marks)]]
        both = [((of == SEEN).sum(), (of != UNKNOWN).sum()) for of in (self.marks, own)]
        return SeenNumbers(*(int(number) for numbers in both for number in numbers))


def seen_function(scorer: object) -> SeenFunction | None:
    """What says which examples a scorer's reference was trained on; None if nothing does."""
    reference = scorer.reference if isinstance(scorer, WithReference) else None
    return reference.has_seen if isinstance(reference, KnowsSeen) else None


def has_turns(scorer: object) -> bool:
    """Whether a scorer has several references that take turns, each of which has seen some rows."""
    return isinstance(scorer, WithReference) and isinstance(scorer.reference, TakesTurns)


def too_few_unseen(num_left: int, size: int, num_seen: int, num_candidates: int) -> ValueError:
    """The error for a super-batch that has too few candidates left."""
    return ValueError(
        "leaving out what the reference was trained on must leave at least the "
        f"{size} candidates that are chosen, but leaves {num_left} of {num_candidates}, for the "
        f"reference was trained on {num_seen} of them; use a larger filter ratio "
        "(super_batch_size), or a reference that was trained on fewer of these data"
    )


def warn(numbers: SeenNumbers) -> None:
    """Say that the reference has seen many candidates, what that does, and what to do."""
    chosen = numbers.of_chosen
    _LOG.warning(
        "%.0f %% of a super-batch's candidates are examples that the reference was trained on%s: "
        "its loss on those is low because it remembers them, so selection "
        "favours what it has memorised; leave them out with exclude_seen=True, cross-fit with "
        "jest-loader cache --folds, or use a reference that was trained on other data",
        100 * (numbers.of_candidates or 0),
        "" if chosen is None else f", and {chosen:.0%} of the chosen".replace("%", " %"),
    )
