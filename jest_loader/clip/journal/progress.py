"""A run's progress, on the screen or in a log."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from jest_loader.loader.reference_passed import LONG

_SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """A progress bar on a terminal, elsewhere a line a minute; a context manager.

    Args:
        steps: Steps of the whole run.
        done: Steps done.
        label: Shown first.
        shown: False hides the bar, as on all ranks but rank 0.
    """

    def __init__(self, steps: int, done: int, label: str, *, shown: bool = True) -> None:
        from tqdm import tqdm

        self._label, self._steps = label.strip(), steps
        self._on_terminal = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=steps,
            initial=done,
            desc=label,
            unit="step",
            disable=not (self._on_terminal and shown),
        )
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """One more step is done."""
        self._bar.update()

    def show(self, record: Mapping[str, Any], held_out: Mapping[str, float]) -> None:
        """Show a record of a step, and the last held-out metrics if there are any."""
        text = describe(record)
        if held_out:
            text += f", held out {next(iter(held_out.values())):.1%}"
        if self._on_terminal:
            self._bar.set_postfix_str(text, refresh=False)
        elif time.monotonic() >= self._next_line or record["step"] == self._steps:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            sys.stderr.write(f"{self._label}: step {record['step']} of {self._steps}, {text}\n")


def describe(record: Mapping[str, Any]) -> str:
    """One line on a record of a step."""
    parts = ", ".join(
        f"{name} {record[f'{name}_fraction']:.0%}" for name in ("waiting", "scoring", "selecting")
    )
    text = f"loss {record['loss']:.3f}, {record['examples_per_s']:,.0f} examples/s ({parts})"
    if record["score"] is not None:
        text += f", score {record['score']:.2f} (uniform {record['uniform_score']:.2f})"
    if (record["steps_past_reference"] or 0) >= LONG:
        text += f", past the reference for {record['steps_past_reference']} steps"
    return text
