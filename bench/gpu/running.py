"""Runs parts one after the other, each in a process of its own, within a budget of time.

A part that fails, hangs or spoils its GPU's context costs the figures of that part alone.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.device import interpreting
from bench.gpu.document import Document, State
from bench.gpu.part import OUT_OF_TIME
from bench.gpu.parts import PARTS

_TAIL_CHARACTERS = 2000
# What a part needs beyond its limit to be stopped, and the table to be written.
_SPARE_S = 3.0


class Budget:
    """Seconds that are left of a run.

    Args:
        seconds: Of the whole run.
    """

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Until the run is over."""
        return self._ends_at - time.monotonic() - _SPARE_S


class Ended(NamedTuple):
    """How a part's process ended."""

    state: State
    said: str


def run_parts(
    names: Sequence[str],
    document: Document,
    budget: Budget,
    command: Sequence[str],
    *,
    after_each: Callable[[str], None],
) -> None:
    """Run the parts that are not done; what no time is left for is left out, and said.

    Args:
        names: The parts, the most important first.
        document: Takes the figures.
        budget: Of the run.
        command: The options that every part is given.
        after_each: Called with the name of each part once it has ended.
    """
    for name in (name for name in names if not document.is_done(name)):
        part, started = PARTS[name], time.monotonic()
        # A CPU may take its time over a smoke run.
        limit_s = budget.left_s if "--smoke" in command else min(part.most_s, budget.left_s)
        if part.needs_data and "--data" not in command:
            document.end(
                name,
                "left out",
                "it needs the folder that bench.joint.dictionary wrote; name it with --data",
            )
        elif limit_s < part.least_s:
            document.end(
                name,
                "left out",
                f"{max(0.0, limit_s):.0f} s were left and it needs {part.least_s:.0f}; the same "
                "command goes on here",
            )
        else:
            ended = _run(name, document, limit_s, command)
            document.end(name, *ended, time.monotonic() - started)
        after_each(name)


def _run(name: str, document: Document, limit_s: float, command: Sequence[str]) -> Ended:
    done = json.dumps(sorted(document.part(name)["figures"]))
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.gpu", *command, "--part", name),
                *("--done", done, "--limit", str(limit_s)),
            ],
            stdin=subprocess.PIPE,  # Its end is this process's, which the part does not outlive.
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=interpreting(os.environ) if "--smoke" in command else None,
            cwd=Path(__file__).parents[2],
        ) as process:
            in_time = _told(process, partial(document.add, name), limit_s)
        if not in_time:
            return Ended("stopped", f"at its limit of {limit_s:.0f} s; the same command goes on")
        if process.returncode == 0:
            return Ended("done", "")
        if process.returncode == OUT_OF_TIME:
            return Ended("stopped", "no time was left for all of it; the same command goes on")
        errors.seek(0)
        said = errors.read()[-_TAIL_CHARACTERS:].strip()
        return Ended("failed", said or f"status {process.returncode}")


def _told(process: subprocess.Popen[str], add: Callable[[str, Any], None], limit_s: float) -> bool:
    """Take a part's figures until it ends; False if it had to be stopped at its limit."""
    assert process.stdout is not None
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        _kill(process)

    timer = threading.Timer(limit_s, stop)
    timer.start()
    try:
        for line in process.stdout:
            if line.endswith("\n"):  # Else the part was killed while it wrote.
                add(*json.loads(line))
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:  # This process was interrupted.
            _kill(process)
    return not stopped.is_set()


def _kill(process: subprocess.Popen[str]) -> None:
    """End a part and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
