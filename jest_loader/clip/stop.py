"""Stopping a run before its end, saved, so that the same command can go on."""

import logging
import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

_LOG = logging.getLogger(__name__)
_PASSED_ON_S = 2.0
"""Torchrun passes on a Ctrl-C that its processes have had from the terminal."""


class Stopped(Exception):
    """A run was stopped before its end, and saved.

    Args:
        message: Why it stopped, and how it goes on.
        rank: The process that raises it; the command shows the message of rank 0 only.
        status: How the command ends: 130 after Ctrl-C, so that what was to follow it does not.
    """

    def __init__(self, message: str, rank: int = 0, status: int = 0) -> None:
        super().__init__(message)
        self.rank = rank
        self.status = status


class Stop:
    """Decides after each step whether to stop: at a SIGTERM or Ctrl-C, or when time is up.

    Within this context SIGTERM and Ctrl-C end the run after the step that they arrive in; a second
    Ctrl-C, two seconds later or more, ends it at once. Python handles signals in the main thread
    only, so in another thread they keep their usual effect.

    Args:
        max_seconds: Time from entering the context; None sets no limit.
    """

    def __init__(self, max_seconds: float | None) -> None:
        self._max_seconds = max_seconds
        self._signalled: str | None = None
        self._began = self._interrupted = 0.0
        self._asked: float | None = None
        self._longest = 0.0
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGTERM, self._terminate),
                (signal.SIGINT, self._interrupt),
            ):
                self._handlers_before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def why(self) -> str | None:
        """Why to stop now, or None; call it once after each step.

        Time is up when another step as long as the longest so far would not fit. The time between
        two calls counts as a step, with evaluations and checkpoints in it.
        """
        now = time.monotonic()
        if self._asked is not None:  # The first step also starts things, and compiles.
            self._longest = max(self._longest, now - self._asked)
        self._asked = now
        if self._signalled is not None:
            return f"by {self._signalled}"
        limit = math.inf if self._max_seconds is None else self._max_seconds
        if now - self._began + self._longest >= limit:
            return f"for max_seconds = {limit:g}"
        return None

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._signalled = self._signalled or "SIGTERM"

    @property
    def status(self) -> int:
        """The status of a command that is stopped now."""
        return 130 if self._signalled == "Ctrl-C" else 0

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled == "Ctrl-C":
            if now - self._interrupted > _PASSED_ON_S:
                raise KeyboardInterrupt
            return
        self._signalled, self._interrupted = "Ctrl-C", now
        _LOG.warning(
            "stopping after this step, saved; Ctrl-C again, in two seconds or later, stops at "
            "once, unsaved"
        )
