"""What several benchmarks need: where they ran, times, and what a sub-batch is worth."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader import Embeddings
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss

# Threads of NumPy's and PyTorch's libraries spin for a while after their work is done.
_PAUSE_S = 0.2


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Hardware, versions and commit that figures belong to."""
    found = {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    if torch.device(device).type == "cuda":
        import triton

        found |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
        }
    return found


def once_ms(run: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Time of one call in ms, what it leaves to the device included."""
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    synchronize()
    time.sleep(_PAUSE_S)
    started = time.perf_counter()
    run()
    synchronize()
    return 1000 * (time.perf_counter() - started)


class PeakMemory:
    """Peak of the memory in use above what was in use at the start."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self.peak_bytes = 0

    def __enter__(self) -> "PeakMemory":
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Resets the peak (Linux).
        self._start = self._in_use("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_bytes = self._in_use("VmHWM") - self._start

    def _in_use(self, line: str) -> int:
        if self._on_gpu:
            allocated = torch.cuda.memory_allocated if line == "VmRSS" else _peak_allocated
            return allocated()
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(rf"{line}:\s+(\d+) kB", status)[1])


def _peak_allocated() -> int:
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def learnability(sides: tuple[Embeddings, Embeddings], index: Tensor, loss: Loss) -> float:
    """The sub-batch's, per example: the learner's loss on it less the reference's."""
    learner, reference = (
        contrastive_loss(replace(side, image=side.image[index], text=side.text[index]), loss)
        for side in sides
    )
    return float(learner - reference)


def _nothing() -> None:
    pass


def _commit() -> str | None:
    """The commit, with a plus where the tree has changes; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changes = subprocess.check_output([*git, "status", "--porcelain"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
