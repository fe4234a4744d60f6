"""Options by which selection changes over a run."""

from dataclasses import dataclass
from typing import Literal

from jest_loader.loader.schedule import Schedule


@dataclass(frozen=True)
class ScheduleConfig:
    """When selection is uniform, and where filter ratio and gain end."""

    start_fraction: float = 0.0
    """Steps are uniform until this share of the run: as many candidates as are trained on, and
    nothing is scored.
    """

    stop_fraction: float = 1.0
    """Steps are uniform from this share of the run on."""

    uniform_every: int | None = None
    """Every n-th step is uniform, step 0 included."""

    final_filter_ratio: float | None = None
    """What the filter ratio ends at: the super-batch grows or shrinks to it by one batch at a time,
    at equal intervals over the run; None leaves it as it is.
    """

    final_gain: float | None = None
    """What the gain ends at, linearly over the run; None leaves it as it is."""

    until: Literal["reference_passed"] | None = None
    """Steps are uniform once the learner has been past the reference for 100 steps; whole
    super-batches are read to the end of that epoch.
    """

    def schedule(self, num_steps: int, filter_ratio: float, gain: float) -> Schedule | None:
        """The schedule of a run that starts with that filter ratio and gain; None if none changes.

        Raises:
            ValueError: if a value is out of range.
        """
        if self == ScheduleConfig():
            return None
        last_gain = gain if self.final_gain is None else self.final_gain
        if not (gain > 0 and last_gain > 0):
            raise ValueError(
                "selection.gain and selection.schedule.final_gain must be positive, got "
                f"{gain} and {self.final_gain}"
            )
        return Schedule(
            num_steps,
            self.start_fraction,
            self.stop_fraction,
            self.uniform_every,
            self._filter_ratios(filter_ratio),
            {} if self.final_gain is None else {0.0: 1.0, 1.0: last_gain / gain},
            self.until,
        )

    def _filter_ratios(self, filter_ratio: float) -> dict[float, float]:
        if self.final_filter_ratio is None:
            return {}
        first, last = (
            num_batches(filter_ratio),
            num_batches(self.final_filter_ratio, "selection.schedule.final_filter_ratio"),
        )
        step = 1 if last >= first else -1
        sizes = range(first, last + step, step)
        return {place / len(sizes): 1 - 1 / size for place, size in enumerate(sizes)}


def num_batches(filter_ratio: float, name: str = "selection.filter_ratio") -> int:
    """How many batches a super-batch of that filter ratio holds.

    Args:
        filter_ratio: The ratio.
        name: The option that it is from.

    Raises:
        ValueError: if that is not a whole number.
    """
    if not 0 <= filter_ratio < 1 or abs(1 / (1 - filter_ratio) % 1 - 0.5) < 0.5 - 1e-6:
        raise ValueError(
            f"{name} must be 1 - 1/n for a whole n, so that a super-batch is n batches "
            f"(0.5, 0.75, 0.8, 0.9), got {filter_ratio}"
        )
    return round(1 / (1 - filter_ratio))
