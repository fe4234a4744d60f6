"""A CUDA stream for work that runs beside the training loop's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from jest_loader.batch import Batch, columns
from jest_loader.column import Column
from jest_loader.loader.super_batch import SuperBatch


class SideStream:
    """Where another thread launches its kernels. Without a GPU in use it does nothing.

    The training loop's thread calls ``start`` before that work begins and ``join`` once it is done.

    Args:
        used: Whether there is such a thread; without one, work stays in the loop's own stream.
    """

    def __init__(self, *, used: bool) -> None:
        in_use = used and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.Stream() if in_use else None  # type: ignore[no-untyped-call]
        self._started: torch.cuda.Event | None = None

    def start(self) -> None:
        """Let the work come after all that this thread has launched so far."""
        if self._stream is not None:
            self._started = torch.cuda.current_stream().record_event()

    def marked(self, made: SuperBatch) -> SuperBatch:
        """A super-batch as it was read, with ``ready`` if it is on the GPU.

        The thread that read it calls this. Such threads launch in the default stream.
        """
        on_gpu = any(_is_on_gpu(column) for _, column in columns(made.candidates))
        if self._stream is None or not on_gpu:
            return made
        return replace(made, ready=torch.cuda.default_stream(self._stream.device).record_event())

    @contextmanager
    def entered(self, ready: torch.cuda.Event | None = None) -> Iterator[None]:
        """Launch the block's kernels on the stream, after ``start`` and ``ready``."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            assert self._started is not None, "start comes first"
            self._stream.wait_event(self._started)
            if ready is not None:
                self._stream.wait_event(ready)
            yield

    def join(self, *batches: Batch) -> None:
        """Let what this thread launches next come after the work, which made ``batches``."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for batch in batches:
            for _, column in columns(batch):
                if _is_on_gpu(column):
                    column.record_stream(current)  # Its memory is not free until this one is done.


def _is_on_gpu(column: Column) -> bool:
    return isinstance(column, Tensor) and column.is_cuda
