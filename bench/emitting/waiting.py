"""The fraction of its time that a training loop waits for sub-batches."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.emitting.scorers import Cached
from jest_loader import JestDataset, Options


def waiting_fraction(prefetch: int, num_steps: int) -> float:
    """Share of a loop's time that it waits: steps take 100 ms, reading a super-batch 90 ms."""

    def source() -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.09)
            yield {"image": np.ones((8, 4), np.float16), "text": np.ones((8, 4), np.float16)}

    dataset = JestDataset(
        source(), Cached(), super_batch_size=8, sub_batch_size=4, options=Options(prefetch=prefetch)
    )
    waited, started, batches = 0.0, 0.0, iter(dataset)
    for step in range(num_steps):
        asked = time.perf_counter()
        next(batches)
        if step == 0:
            started = time.perf_counter()  # The first cannot have been read ahead.
        else:
            waited += time.perf_counter() - asked
        time.sleep(0.1)
    return waited / (time.perf_counter() - started)
