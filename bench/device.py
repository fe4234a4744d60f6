"""What only a GPU can do, and what a CPU does in its place: all else runs alike on both."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch

Made = TypeVar("Made")
_WARM_UPS = 3


@dataclass(frozen=True)
class Device:
    """The device that is measured.

    Args:
        type: ``"cuda"``, the current GPU, or ``"cpu"``, where kernels are interpreted.
    """

    type: Literal["cpu", "cuda"]

    @property
    def name(self) -> str:
        """The GPU's name, such as ``"NVIDIA H200"``, or ``"cpu"``."""
        return torch.cuda.get_device_name() if self.type == "cuda" else "cpu"

    @property
    def shared_bytes(self) -> int:
        """The most shared memory that a block of a kernel may have; a Hopper's on a CPU."""
        if self.type == "cpu":
            return 227 << 10
        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        return int(properties.shared_memory_per_block_optin)

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        if self.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, run: Callable[[], object], calls: int = 1) -> float:
        """The time of a call in ms, the mean of ``calls`` in a row, by the device's own clock.

        On a GPU it begins when the device is idle, so that the host's part in launching counts.
        """
        if self.type == "cpu":
            started = time.perf_counter()
            for _ in range(calls):
                run()
            return 1000 * (time.perf_counter() - started) / calls
        start, end = (_event() for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls

    def captured(self, run: Callable[[], Made]) -> "Captured[Made]":
        """A call that launches what ``run`` launches as one CUDA graph, at once.

        ``run`` must not wait for the device and must read the same memory each time. It is run
        before the capture, in a stream of its own, since kernels must not be compiled, nor
        libraries made ready, within one.
        """
        if self.type == "cpu":
            return Captured(run, run, run())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = run()
        return Captured(run, graph.replay, made)


@dataclass(frozen=True, eq=False)
class Captured(Generic[Made]):
    """A captured call, which returns the same memory each time, with new values.

    Args:
        run: What was captured. It is kept because it holds the memory that the graph reads.
        replay: Launches it.
        made: What it returned while it was captured.
    """

    run: Callable[[], Made]
    replay: Callable[[], object]
    made: Made

    def __call__(self) -> Made:
        """Launch it all; does not wait."""
        self.replay()
        return self.made


def interpreting(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that interprets Triton's kernels rather than compile them."""
    return {**environment, "TRITON_INTERPRET": "1"}


def interpret_quickly() -> None:
    """Let Triton's interpreter, if this process has it, multiply a tile's numbers by NumPy."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        from triton.runtime.interpreter import ReduceOps

        ReduceOps.generic_reduce = products_of_numpy


def products_of_numpy(reduce: Any, tiles: Any) -> list[Any]:
    """``ReduceOps.generic_reduce`` for products, which else calls a function for each element."""
    assert reduce.combine_fn.fn(2.0, 3.0) == 6.0, "the kernels reduce so only by products"
    (tile,) = tiles
    found = tile.handle.data.prod(axis=reduce.axis, keepdims=reduce.keep_dims)
    return [reduce.to_tensor(found, tile.dtype)]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
