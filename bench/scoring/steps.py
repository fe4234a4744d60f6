"""Whole steps through ``JestDataset``, choosing and training in turn and overlapped."""

import itertools
import time
from collections.abc import Iterator

import torch

from bench.scoring.forms import SELECTOR, Bench
from jest_loader import JestDataset, Learnability, Options
from jest_loader.batch import Batch


class Endless:
    """The same candidates again and again."""

    def __init__(self, candidates: Batch) -> None:
        self.candidates = candidates

    def __iter__(self) -> Iterator[Batch]:
        """Super-batches without end."""
        return itertools.repeat(self.candidates)


def measure_steps(bench: Bench, num_steps: int) -> dict[str, float]:
    """Wall time of a step in ms: training alone, choosing and training in turn, and overlapped."""
    setting = bench.setting

    def training() -> Iterator[None]:
        while True:
            bench.train()
            yield

    def steps(overlap: bool) -> Iterator[None]:
        dataset = JestDataset(
            Endless(bench.candidates),
            Learnability(bench.live, bench.cached),
            SELECTOR,
            super_batch_size=setting.super_batch,
            sub_batch_size=setting.sub_batch,
            options=Options(overlap=overlap),
        )
        with dataset:
            for batch in dataset:
                bench.sub_batch = batch
                bench.train()
                yield

    loops = {
        "a step of training alone": training(),
        "a step, choosing and training in turn": steps(overlap=False),
        "a step, choosing overlapped": steps(overlap=True),
    }
    return {name: _per_step_ms(loop, num_steps, bench.device) for name, loop in loops.items()}


def _per_step_ms(loop: Iterator[object], num_steps: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        next(loop)
    wait()
    started = time.perf_counter()
    for _ in range(num_steps):
        next(loop)
    wait()
    return 1000 * (time.perf_counter() - started) / num_steps
