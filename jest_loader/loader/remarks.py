"""What the log says once of a run's selection."""

from jest_loader.loader import reference_passed, seen_candidates
from jest_loader.loader.telemetry import Measured


class Remarks:
    """Remarks on a dataset's selection, each of which is made once."""

    def __init__(self) -> None:
        self._has_passed = self._has_seen = False

    def on(self, measured: Measured, *, ends: bool, excludes_seen: bool) -> None:
        """Make those that are due.

        Args:
            measured: Of the last sub-batch.
            ends: Whether the schedule ends selection where the reference is passed.
            excludes_seen: Whether candidates that the reference was trained on are left out.
        """
        past = measured.steps_past_reference or 0
        if past >= reference_passed.LONG and not self._has_passed:
            self._has_passed = True
            reference_passed.warn(ends=ends)
        share = measured.seen.of_candidates or 0
        if share > seen_candidates.MOST_SHARE and not self._has_seen and not excludes_seen:
            self._has_seen = True
            seen_candidates.warn(measured.seen)
