"""A CUDA stream for work that runs beside the training loop's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from jest_loader.batch import Batch, columns


class SideStream:
    """Where another thread launches its kernels. Without a GPU in use it does nothing.

    The training loop's thread calls ``start`` before that work begins and ``join`` once it is done.
    """

    def __init__(self) -> None:
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.Stream() if in_use else None  # type: ignore[no-untyped-call]
        self._started: torch.cuda.Event | None = None

    def start(self) -> None:
        """Let the work come after all that this thread has launched so far."""
        if self._stream is not None:
            self._started = torch.cuda.current_stream().record_event()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Launch the block's kernels on the stream."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            assert self._started is not None, "start comes first"
            self._stream.wait_event(self._started)
            yield

    def join(self, *batches: Batch) -> None:
        """Let what this thread launches next come after the work, which made ``batches``."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for batch in batches:
            for _, column in columns(batch):
                if isinstance(column, Tensor) and column.is_cuda:
                    column.record_stream(current)  # Its memory is not free until this one is done.
