"""Reading ahead: a thread makes the next items while the consumer works on the last one.

An item carries everything that belongs to it, the source's state too. So items that were made but
not taken leave no trace.
"""

import atexit
import logging
import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")

_LOG = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 1.0
_EXIT_TIMEOUT_S = 10.0


def _same(item: Out) -> Out:
    return item


class ReadAhead(Generic[In, Out], Iterator[Out]):
    """Items made by a thread, which stays at most ``depth`` ahead of the one taken last.

    At most ``depth`` items are waiting or in the making; with the one that the consumer holds,
    ``depth + 1`` are in memory.

    Args:
        inputs: Drawn from in the thread, and no longer once this is closed.
        make: Makes items of inputs; runs in the thread.
        depth: At least 1.
        stall_timeout_s: The longest to wait for an item; None waits for ever.
        finish: What becomes of an item once it is taken; runs in the consumer's thread, at a depth
            of 1 while nothing is in the making.
        name: What the thread does, for its name.
    """

    def __init__(
        self,
        inputs: Iterator[In],
        make: Callable[[Iterator[In]], Iterator[Out]],
        *,
        depth: int,
        stall_timeout_s: float | None,
        finish: Callable[[Out], Out] = _same,
        name: str = "reader",
    ) -> None:
        self._timeout_s = stall_timeout_s
        self._finish = finish
        self._over = False
        # The thread must not refer to this object, or it would never be collected and closed.
        self._thread: _Maker[In, Out] = _Maker(inputs, make, depth, name)
        weakref.finalize(self, self._thread.end)
        self._thread.start()

    def __next__(self) -> Out:
        """The next item.

        Raises:
            Exception: what ``inputs`` or ``make`` raised, in its place among the items.
            TimeoutError: if no item arrives in time; the stacks of all threads are logged.
        """
        if self._over:
            raise StopIteration
        try:
            made = self._thread.ready.get(timeout=self._timeout_s)
        except queue.Empty:
            raise self._stalled() from None
        if made.error is not None:
            self._over = True
            self._thread.join()
            raise made.error
        self._over = True  # Where it cannot be finished.
        item = self._finish(made.item)
        self._over = False
        self._thread.free.release()
        return item

    def close(self) -> None:
        """Draw no more inputs; waits a moment for the thread, which may be waiting for one."""
        self._over = True
        self._thread.end()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def wait(self) -> None:
        """Wait until the thread has ended, once this is closed.

        Raises:
            TimeoutError: as ``next``.
        """
        self._thread.join(self._timeout_s)
        if self._thread.is_alive():
            raise self._stalled()

    def _stalled(self) -> TimeoutError:
        _LOG.error("the source has stalled:\n%s", _all_stacks())
        return TimeoutError(
            f"the source must yield a super-batch within {self._timeout_s:g} s, but did not; the "
            "log has the stacks of all threads. Mend the storage, or set stall_timeout_s higher"
        )


class _Made(NamedTuple, Generic[Out]):
    """An item, or why there is none."""

    item: Any
    error: BaseException | None = None


class _Maker(threading.Thread, Generic[In, Out]):
    """The thread, which makes items until it is ended."""

    def __init__(
        self,
        inputs: Iterator[In],
        make: Callable[[Iterator[In]], Iterator[Out]],
        depth: int,
        name: str,
    ) -> None:
        # A reader that hangs must not keep the process alive.
        super().__init__(name=f"jest-loader {name}", daemon=True)
        self.ready: queue.SimpleQueue[_Made[Out]] = queue.SimpleQueue()
        self.free = threading.Semaphore(depth)
        self._ended = threading.Event()
        self._items = make(_until(self._ended, inputs))
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._gpu = torch.cuda.current_device() if in_use else None

    def run(self) -> None:
        try:
            if self._gpu is not None:  # A thread begins on the first one.
                torch.cuda.set_device(self._gpu)
            while True:
                self.free.acquire()
                if self._ended.is_set():
                    self.ready.put(_Made(None, StopIteration()))
                    return
                self.ready.put(_Made(next(self._items)))
        except BaseException as error:  # Whatever it is, StopIteration too, it is the consumer's.
            self.ready.put(_Made(None, error))
        finally:
            del self._items  # Closes the inputs, which may hold files and processes.

    def end(self) -> None:
        """Make no more than what is in the making."""
        self._ended.set()
        self.free.release()  # The thread may be waiting to make another.


@atexit.register
def _end_all() -> None:
    """End the threads and wait: where Python ends one within torch, the process is aborted."""
    makers = [thread for thread in threading.enumerate() if isinstance(thread, _Maker)]
    for maker in makers:
        maker.end()
    started = time.monotonic()
    with suppress(KeyboardInterrupt):
        if not _have_ended(makers, started + _CLOSE_TIMEOUT_S):
            _LOG.warning(
                "waiting up to %g s for the source's last read, before Python ends; interrupt "
                "(Ctrl-C) to end at once",
                _EXIT_TIMEOUT_S,
            )
            _have_ended(makers, started + _EXIT_TIMEOUT_S)


def _have_ended(makers: list["_Maker[Any, Any]"], deadline: float) -> bool:
    for maker in makers:
        maker.join(max(0.0, deadline - time.monotonic()))
    return not any(maker.is_alive() for maker in makers)


def _until(ended: threading.Event, inputs: Iterator[In]) -> Iterator[In]:
    for value in inputs:
        if ended.is_set():
            return
        yield value


def _all_stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
