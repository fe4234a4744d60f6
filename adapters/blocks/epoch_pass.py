"""One pass over an epoch."""

from bisect import bisect_right
from collections.abc import Iterator

from jest_loader.adapters.blocks.columns import Columns, join
from jest_loader.adapters.blocks.loaded_window import LoadedWindow, load_window
from jest_loader.adapters.blocks.order import Window
from jest_loader.adapters.blocks.plan import BatchPlan
from jest_loader.adapters.blocks.scratch import Scratch
from jest_loader.adapters.blocks.state import SourcePosition


class EpochPass(Iterator[Columns]):
    """The batches of an epoch from a position on; holds the rows of one window.

    Args:
        plan: Whose batches they are.
        start: The epoch and the batch to start at.
        spare: Holds the memory of a pass that ended, or nothing. The pass takes it, and puts its
            own there when it ends.
    """

    def __init__(self, plan: BatchPlan, start: SourcePosition, spare: list[Scratch]) -> None:
        self.position = start
        self._plan = plan
        self._spare = spare
        self._scratch = spare.pop() if spare else Scratch()
        self._windows: list[Window] | None = None
        self._loaded: LoadedWindow | None = None
        self._ended = False

    def __next__(self) -> Columns:
        start = self.position.batches * self._plan.batch_rows
        stop = min(start + self._plan.batch_rows, self._plan.end)
        if self._ended or not self._plan.places(start, stop):
            self._end()
            raise StopIteration
        parts = []
        while start < stop:
            window = self._window_at(start)
            upto = min(stop, window.stop)
            places = self._plan.places(start, upto)
            if places:
                loaded = self._load(window, start)
                parts.append(loaded.take(places, self._plan.options.id_column))
            start = upto
        self.position = SourcePosition(self.position.epoch, self.position.batches + 1)
        return join(parts)

    def _window_at(self, place: int) -> Window:
        if self._windows is None:
            self._windows = self._plan.order.windows(self.position.epoch)
        return self._windows[bisect_right(self._windows, place, key=lambda window: window.stop)]

    def _load(self, window: Window, start: int) -> LoadedWindow:
        if self._loaded is None or self._loaded.window is not window:
            self._loaded = None  # let go of the old window before the new one is read
            self._loaded = load_window(
                self._plan, self.position.epoch, window, start, self._scratch
            )
        return self._loaded

    def _end(self) -> None:
        """Stand at the next epoch, and let others use the memory."""
        if self._ended:
            return
        self._ended = True
        self.position = SourcePosition(self.position.epoch + 1, 0)
        self._windows = self._loaded = None
        self._spare[:] = [self._scratch]
