"""What a run has read, scored and trained on. Never one number for all three."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counts:
    """Examples counted since the first epoch began, through saved and restored states.

    Args:
        loaded: Read from the source into a super-batch.
        scored: Seen by a scorer.
        trained: Emitted in a sub-batch.
        dropped: Read at the end of an epoch, too few for another super-batch, and left out.
    """

    loaded: int = 0
    scored: int = 0
    trained: int = 0
    dropped: int = 0

    def plus(
        self, *, loaded: int = 0, scored: int = 0, trained: int = 0, dropped: int = 0
    ) -> "Counts":
        """These counts with more examples added."""
        return Counts(
            self.loaded + loaded,
            self.scored + scored,
            self.trained + trained,
            self.dropped + dropped,
        )

    def to_dict(self) -> dict[str, int]:
        """The counts by name, for a saved state or a log."""
        return asdict(self)
