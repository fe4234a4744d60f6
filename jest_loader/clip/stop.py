"""Stopping a run before its end, saved, so that the same command can go on."""

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Self


class Stopped(Exception):
    """A run was stopped before its end, and saved.

    Args:
        message: Why it stopped, and how it goes on.
        rank: The process that raises it; the command shows the message of rank 0 only.
    """

    def __init__(self, message: str, rank: int = 0) -> None:
        super().__init__(message)
        self.rank = rank


class Stop:
    """Decides after each step whether to stop: at a SIGTERM, or when time is up.

    Within this context SIGTERM ends the run after the step that it arrives in. Python handles
    signals in the main thread only, so in another thread SIGTERM keeps its usual effect.

    Args:
        max_seconds: Time from entering the context; None sets no limit.
    """

    def __init__(self, max_seconds: float | None) -> None:
        self._max_seconds = max_seconds
        self._terminated = False
        self._began = 0.0
        self._asked: float | None = None
        self._longest = 0.0
        self._handler_before: Any = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)

    def why(self) -> str | None:
        """Why to stop now, or None; call it once after each step.

        Time is up when another step as long as the longest so far would not fit. The time between
        two calls counts as a step, with evaluations and checkpoints in it.
        """
        now = time.monotonic()
        if self._asked is not None:  # The first step also starts things, and compiles.
            self._longest = max(self._longest, now - self._asked)
        self._asked = now
        if self._terminated:
            return "by SIGTERM"
        limit = math.inf if self._max_seconds is None else self._max_seconds
        if now - self._began + self._longest >= limit:
            return f"for max_seconds = {limit:g}"
        return None

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
