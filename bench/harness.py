"""What several benchmarks need: arguments, the JSON document, times in rounds, memory, worth."""

import argparse
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from jest_loader import Embeddings
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss

# Threads of NumPy's and PyTorch's libraries spin for a while after their work is done.
_PAUSE_S = 0.2
Key = TypeVar("Key")
Time = TypeVar("Time")


class Seconds(NamedTuple):
    """What a call took: CPU time of all threads of this process, and time by the clock."""

    cpu: float
    wall: float


def parser_of(
    docstring: str, *, smoke: bool = False, repeats: int | None = None
) -> argparse.ArgumentParser:
    """A parser whose help begins with a benchmark's question, its docstring's first line.

    Args:
        docstring: The benchmark's.
        smoke: Whether it has ``--smoke``.
        repeats: The default of ``--repeats``; None leaves the option out.
    """
    parser = argparse.ArgumentParser(description=docstring.splitlines()[0])
    if smoke:
        parser.add_argument("--smoke", action="store_true", help="seconds, by small sizes")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="rounds; smoke takes one")
    return parser


def print_document(
    figures: Mapping[str, Any], *, device: str = "cpu", packages: Iterable[str] = ()
) -> None:
    """The last line of a benchmark's output: the figures and what they belong to, as JSON.

    Args:
        figures: JSON values by name.
        device: The device that was measured.
        packages: Distributions whose versions matter beside those of NumPy and PyTorch.
    """
    versions = {package: version_of(package) for package in packages}
    print(json.dumps({"environment": environment(device) | versions, **figures}))


def version_of(package: str) -> str:
    """The version of a distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


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


def once_s(run: Callable[[], object]) -> Seconds:
    """Seconds of one call that leaves nothing to a device."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def in_rounds(
    forms: Mapping[Key, Callable[[], object]],
    rounds: int,
    time_of: Callable[[Callable[[], object]], Time],
) -> dict[Key, list[Time]]:
    """What ``time_of`` returns for each form in each round.

    Forms take turns because the machine's other work comes and goes: it slows neighbours in time
    alike, so ratios are taken within a round.
    """
    taken = [{name: time_of(run) for name, run in forms.items()} for _ in range(rounds)]
    return {name: [times[name] for times in taken] for name in forms}


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
        found = re.search(rf"{line}:\s+(\d+) kB", status)
        assert found is not None, "Linux says what a process has in memory"
        return 1024 * int(found[1])


def _peak_allocated() -> int:
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def ratios(values: Iterable[float], others: Iterable[float]) -> list[float]:
    """Each value over the other of its round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def unit_rows(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Random directions, fp32 [num_rows, width] on the generator's device."""
    rows = torch.randn(num_rows, width, generator=generator, device=generator.device)
    return normalize(rows, dim=1)


def pyplot() -> Any:
    """Matplotlib's pyplot, which draws into files here."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


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
