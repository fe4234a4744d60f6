"""What a run has read, scored and trained on. Never one number for all three."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Counts:
    """Examples counted since the first epoch began, through saved and restored states.

    Args:
        loaded: Read from the source into a super-batch.
        scored: Seen by a scorer.
        trained: Emitted in a sub-batch.
        dropped: Read at the end of an epoch, too few for another super-batch, and left out.
        skipped: Candidates that were bad: without a finite score, or not to be materialized.
    """

    loaded: int = 0
    scored: int = 0
    trained: int = 0
    dropped: int = 0
    skipped: int = 0

    def plus(self, **more: int) -> "Counts":
        """These counts with more examples added, by name."""
        return replace(self, **{name: getattr(self, name) + more[name] for name in more})

    def to_dict(self) -> dict[str, int]:
        """The counts by name, for a saved state or a log."""
        return asdict(self)
