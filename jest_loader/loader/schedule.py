"""When to select, and how hard, as a function of the training step."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jest_loader.checks import is_number, whole


@dataclass(frozen=True)
class Step:
    """How one sub-batch is chosen.

    Args:
        number: Of all steps of the run, from 0.
        key: Chooses the noise of its draws.
        super_batch_size: Candidates read for it.
        gain: Factor on the selector's own gain.
        uniform: Whether to draw it uniformly and score nothing.
    """

    number: int
    key: int
    super_batch_size: int
    gain: float = 1.0
    uniform: bool = False


@dataclass(frozen=True)
class Schedule:
    """Selection that changes over a run; a step is one sub-batch delivered, over all epochs.

    A uniform step reads no more than it trains on, as far as the source's batch size lets it. A
    source that is not a list and has no ``batch_size`` must have batches that divide the sub-batch.

    Args:
        num_steps: Steps of the run. Fractions below are of it; steps beyond are as at 1.
        start_fraction: Uniform steps until there.
        stop_fraction: Uniform steps from there on.
        uniform_every: Every n-th step is uniform, step 0 included.
        filter_ratio: The share of candidates not chosen, from each fraction of the run on, such as
            ``{0.0: 0.5, 0.2: 0.8}``; before the first the dataset's ``super_batch_size`` holds.
        gain: Factors on the selector's gain at fractions of the run, linear between them.
        until: ``"reference_passed"`` makes steps uniform once the learner has been past the
            reference for 100 steps. They read whole super-batches to the end of the epoch, and no
            more than they train on in those after it. None goes by the fractions alone.

    Raises:
        ValueError: if a value is out of range.
    """

    num_steps: int
    start_fraction: float = 0.0
    stop_fraction: float = 1.0
    uniform_every: int | None = None
    filter_ratio: Mapping[float, float] = field(default_factory=dict)
    gain: Mapping[float, float] = field(default_factory=dict)
    until: Literal["reference_passed"] | None = None

    def __post_init__(self) -> None:
        whole("num_steps of a schedule", self.num_steps, 1)
        if self.uniform_every is not None:
            whole("uniform_every of a schedule", self.uniform_every, 2)
        for name in ("start_fraction", "stop_fraction"):
            _check(name, getattr(self, name), 0, 1)
        if self.start_fraction >= self.stop_fraction:
            raise ValueError(
                "start_fraction of a schedule must be below its stop_fraction, got "
                f"{self.start_fraction} and {self.stop_fraction}; such a run would select nothing"
            )
        if self.until not in (None, "reference_passed"):
            raise ValueError(
                f"until of a schedule must be 'reference_passed' or None, got {self.until!r}; to "
                "end selection at a step, use stop_fraction"
            )
        self._set_points("filter_ratio", 0, math.nextafter(1, 0))
        self._set_points("gain", math.ulp(0), sys.float_info.max)

    def _set_points(self, name: str, least: float, most: float) -> None:
        """Keep a mapping in one form, since a state compares schedules by their text."""
        given: object = getattr(self, name)
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{name} of a schedule must map fractions of the run to values, got {given!r}; "
                f"write {{0.0: {given!r}}}"
            )
        for fraction, value in given.items():
            _check(f"each fraction of the run in {name}", fraction, 0, 1)
            _check(f"each value of {name}", value, least, most)
        points = {float(fraction): float(value) for fraction, value in sorted(given.items())}
        object.__setattr__(self, name, points)

    def is_uniform(self, step: int) -> bool:
        """Whether nothing is scored at ``step``."""
        run = self.num_steps
        return (
            step < self.start_fraction * run
            or (step >= self.stop_fraction * run and self.stop_fraction < 1)
            or (self.uniform_every is not None and step % self.uniform_every == 0)
        )

    def filter_ratio_at(self, step: int) -> float | None:
        """The filter ratio at ``step``; None while the schedule sets none."""
        begun = [start for start in self.filter_ratio if start * self.num_steps <= step]
        return self.filter_ratio[max(begun)] if begun else None

    def gain_at(self, step: int) -> float:
        """The factor on the selector's gain at ``step``."""
        if not self.gain:
            return 1.0
        at = min(1.0, step / self.num_steps)
        before = max((f for f in self.gain if f <= at), default=min(self.gain))
        after = min((f for f in self.gain if f >= at), default=max(self.gain))
        if before >= after:
            return self.gain[before]
        way = (at - before) / (after - before)
        return (1 - way) * self.gain[before] + way * self.gain[after]


def _check(name: str, value: object, least: float, most: float) -> None:
    if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{name} of a schedule must be from {least:g} to {most:g}, got {value!r}")
