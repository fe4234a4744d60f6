"""The parts of the measurement, the most important first, and what a part is told."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.device import Device


class OutOfTime(Exception):
    """Some of a part's figures are still to be measured: the same command goes on with them."""


class Part(NamedTuple):
    """One part; the module of its name in this package has ``run(setting)``.

    Args:
        question: What it answers.
        least_s: Seconds of budget below which it is not begun.
        most_s: Seconds after which it is stopped.
        needs_data: Whether it is left out without ``--data``.
    """

    question: str
    least_s: float
    most_s: float
    needs_data: bool = False


PARTS = {
    "kernels": Part("Do the tests pass that need a GPU, and those of the kernels?", 20, 150),
    "selection": Part("What does joint selection cost, beside its bare products?", 20, 120),
    "steps": Part("What does a step cost, in turn and overlapped?", 20, 80),
    "tiles": Part("Which tiles are the fastest?", 15, 60),
    "scoring": Part("What does each precision cost, and which picks does it keep?", 30, 100),
    "dictionary": Part("Does joint selection train better at large batches?", 30, 3600, True),
}


@dataclass(frozen=True)
class Setting:
    """What a part is told.

    Args:
        device: What is measured.
        smoke: Whether sizes are tiny.
        out: The folder of the results.
        data: The folder of the dictionary; None for none.
        done: Keys of the figures that are known already.
        ends_at: When the part is stopped, on the clock of ``time.monotonic``.
        tell: Takes a key and a figure, which is then on disk.
    """

    device: Device
    smoke: bool
    out: Path
    data: Path | None
    done: frozenset[str]
    ends_at: float
    tell: Callable[[str, Any], None]

    @property
    def rounds(self) -> int:
        """How often each form is timed."""
        return 1 if self.smoke else 5

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self.ends_at - time.monotonic()

    def measure(self, key: str, figure: Callable[[], Any]) -> None:
        """Tell the figure of that key, unless it is known."""
        if key not in self.done:
            self.tell(key, figure())
