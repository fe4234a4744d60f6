"""A run's progress, on the screen or in a log."""

import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from jest_loader.loader.reference_passed import LONG

_SECONDS_BETWEEN_LINES = 60.0
_LOG_COLUMNS = 79
_BAR = "{desc}: {percentage:3.0f}%|{bar:6}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_BAR_COLUMNS = len(": 100%|012345|  [00:00<00:00]")  # Without label, numbers and postfix.


class Progress:
    """A progress bar on a terminal, elsewhere a line a minute; a context manager.

    What does not fit the terminal's columns, or the 79 of a log, is left out.

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
        columns = shutil.get_terminal_size().columns - 1
        self._room = columns - len(label) - _BAR_COLUMNS - 2 * len(str(steps)) - 1
        self._bar: Any = tqdm(
            total=steps,
            initial=done,
            desc=label,
            bar_format=_BAR,
            ncols=columns,
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
        parts = describe(record, held_out)
        if self._on_terminal:
            fitting = that_fit(parts, self._room)
            self._bar.set_postfix_str(fitting.removeprefix(", "), refresh=False)
        elif time.monotonic() >= self._next_line or record["step"] == self._steps:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            head = f"{self._label}: step {record['step']} of {self._steps}"
            sys.stderr.write(f"{head}{that_fit(parts, _LOG_COLUMNS - len(head))}\n")


def describe(record: Mapping[str, Any], held_out: Mapping[str, float]) -> list[str]:
    """What there is to say of a step, the most important first."""
    parts = [f"loss {record['loss']:.3f}"]
    if held_out:
        parts.append(f"held out {next(iter(held_out.values())):.1%}")
    if (record["steps_past_reference"] or 0) >= LONG:
        parts.append(f"past the reference for {record['steps_past_reference']} steps")
    parts.append(f"{record['examples_per_s']:,.0f} examples/s")
    if record["score"] is not None:
        parts.append(f"score {record['score']:.2f} (uniform {record['uniform_score']:.2f})")
    shares = ("waiting", "scoring", "selecting")
    return parts + [f"{name} {record[f'{name}_fraction']:.0%}" for name in shares]


def that_fit(parts: Iterable[str], columns: int) -> str:
    """Each part that still fits, in order, with a comma before it."""
    text = ""
    for part in parts:
        if len(text) + len(part) + 2 <= columns:
            text += f", {part}"
    return text
