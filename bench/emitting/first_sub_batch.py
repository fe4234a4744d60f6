"""The time until the first sub-batch, and its parts."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.emitting.data import SIZE, with_thumbnails
from bench.emitting.scorers import scorers
from bench.harness import spread
from jest_loader import IndependentSelector, JestDataset
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource


def first_sub_batch(path: Path, num_rows: int, size: int, num_passes: int) -> dict[str, Any]:
    """Seconds until the first sub-batch, and of its parts, by each way of scoring."""
    found: dict[str, Any] = {}
    print(f"first sub-batch of {size} from {5 * size} of {num_rows} rows, s (from, to)")
    for name in ("cached", "low resolution", "thumbnails"):
        passes = [one_first(path, name, size) for _ in range(num_passes)]
        found[name] = {part: spread([one[part] for one in passes]) for part in passes[0]}
        parts = (
            f"{part} {s['median']:.3f} ({s['min']:.3f}, {s['max']:.3f})"
            for part, s in found[name].items()
        )
        print(f"  {name:22s} {'  '.join(parts)}", flush=True)
    return found


def one_first(path: Path, name: str, size: int) -> dict[str, float]:
    """One pass to its first sub-batch."""
    seconds: dict[str, float] = {}

    def timed(part: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(batch: Any) -> Any:
            begun = time.perf_counter()
            result = function(batch)
            seconds[part] = time.perf_counter() - begun
            return result

        return call

    def source() -> Iterator[Any]:
        for batch in MdsSource(with_thumbnails(path), batch_size=5 * size):
            seconds.setdefault("reading", time.perf_counter() - started)
            yield batch

    scorer = scorers()[name]
    dataset = JestDataset(
        source(),
        SimpleNamespace(score=timed("scoring", scorer.score)),
        IndependentSelector(),
        super_batch_size=5 * size,
        sub_batch_size=size,
        materialize=timed("decoding", DecodeImages("jpg", SIZE)),
    )
    started = time.perf_counter()
    with dataset:
        next(iter(dataset))
        total = time.perf_counter() - started
    return {"total": total, **seconds, "after_reading": total - seconds["reading"]}
