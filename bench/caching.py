"""What a reference cache costs: to build, and to read.

Building: batches in memory, the demo's model with embeddings of width 512, on the CPU; examples per
second of ``reference_cache.build`` next to a bare loop that embeds the same batches and drops the
result, and to building from embeddings that are there, which is what building adds. Rounds of all
alternate. Other models take longer per example; what is added is the same. Reading: rows gathered
at random, as a super-batch needs them, with the page cache warm, in one thread: per CPU-second,
next to ``numpy.memmap`` over one file and to Zarr's own ``oindex`` over the same cache.

    OMP_NUM_THREADS=1 python -m bench.caching > bench/results/caching_cpu.txt
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch.nn.functional import normalize

from bench.harness import environment, spread
from jest_loader import CachedReference, Embeddings, FrozenReference
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.reference_cache import build

WIDTH = 512
MODEL = ModelConfig(
    image_size=32,
    channels=1,
    vision_width=96,
    vision_depth=3,
    text_width=96,
    text_depth=0,
    embed_dim=WIDTH,
)


class Known:
    """Embeddings that cost nothing: those of the batches in turn, again and again."""

    def __init__(self, embeddings: list[Embeddings]) -> None:
        self._embeddings = itertools.cycle(embeddings)

    def embed(self, batch: object) -> Embeddings:
        """The next."""
        return next(self._embeddings)


def main() -> None:
    """Print figures, and then all of them as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="sizes that say nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "environment": {**environment(), "zarr": zarr.__version__},
            "building": building(Path(folder), smoke=arguments.smoke),
            "reading": reading(Path(folder), smoke=arguments.smoke),
        }
    print(json.dumps(figures))


def building(folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Examples per second of building and of the bare loop."""
    num_rows, rounds = (512, 2) if smoke else (4096, 5)
    model = TwoTower(MODEL)
    source = [
        {
            "image": torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8),
            "text": torch.randint(1, 8192, (256, 8)),
            "sample_id": np.arange(first, first + 256),
        }
        for first in range(0, num_rows, 256)
    ]
    reference = FrozenReference(model)

    def bare() -> None:
        for batch in source:
            reference.embed(batch)

    def cache() -> None:
        build(folder / "built", source, reference, chunk_rows=num_rows // 4, overwrite=True)

    known = Known([reference.embed(batch) for batch in source])

    def no_model() -> None:
        build(folder / "built", source, known, chunk_rows=num_rows // 4, overwrite=True)

    runs = {"bare": bare, "cache": cache, "no model": no_model}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            wall, own = time.perf_counter(), time.process_time()
            run()
            rates[name].append(num_rows / (time.perf_counter() - wall))
            cpu[name].append(num_rows / (time.process_time() - own))
    found = {
        "rows": num_rows,
        "flops_per_row": model.forward_flops(),
        "per_s": {name: spread(values) for name, values in rates.items()},
        "per_cpu_s": {name: spread(values) for name, values in cpu.items()},
        "ratio": spread([c / b for c, b in zip(rates["cache"], rates["bare"], strict=True)]),
        "cpu_ratio": spread([c / b for c, b in zip(cpu["cache"], cpu["bare"], strict=True)]),
    }
    print(f"Building, {num_rows} examples of width {WIDTH}: examples per s (per CPU-s), medians")
    for name in rates:
        per_s, per_cpu_s = found["per_s"][name]["median"], found["per_cpu_s"][name]["median"]
        print(f"  {name:10}{per_s:12,.0f}{per_cpu_s:14,.0f}")
    shown = {name: found[name]["median"] for name in ("ratio", "cpu_ratio")}
    added = 1 / found["per_cpu_s"]["no model"]["median"]
    found["added_cpu_us"] = 1e6 * added
    found["added_share"] = added * found["per_cpu_s"]["bare"]["median"]
    print(
        f"  cache / bare: {shown['ratio']:.3f} of the wall clock, {shown['cpu_ratio']:.3f} of CPU"
    )
    print(f"  added per example: {found['added_cpu_us']:.1f} us of CPU, {found['added_share']:.1%}")
    return found


def reading(folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Rows of image embeddings per CPU-second, gathered at random."""
    num_rows, chunk_rows, size, rounds = (2048, 128, 64, 2) if smoke else (1 << 17, 2048, 5120, 7)
    source = ({"sample_id": np.arange(first, first + 128)} for first in range(0, num_rows, 128))
    rows = normalize(torch.randn(128, WIDTH), dim=1)
    known = Known([Embeddings(rows, rows.roll(1, 0), 10.0, -5.0)])
    build(folder / "cache", source, known, chunk_rows=chunk_rows)
    cached = CachedReference.open(folder / "cache")
    group = zarr.open_group(folder / "cache", mode="r")
    for side in ("image", "text"):
        group[side][:].tofile(folder / side)
    maps = [
        np.memmap(folder / side, np.float16, "r", shape=(num_rows, WIDTH))
        for side in ("image", "text")
    ]
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, num_rows, size) for _ in range(16)]
    readers: dict[str, tuple[Callable[[Any], Any], int]] = {
        "numpy.memmap": (lambda ids: [one[ids] for one in maps], len(batches)),
        "CachedReference": (lambda ids: cached.embed({"sample_id": ids}), len(batches)),
        "zarr oindex": (
            lambda ids: [group[side].oindex[ids] for side in ("image", "text")],
            1,
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for name, (read, _) in readers.items():
        if name != "zarr oindex":
            for ids in batches:
                read(ids)
    for _ in range(rounds):
        for name, (read, num_batches) in readers.items():
            own = time.process_time()
            for ids in batches[:num_batches]:
                read(ids)
            rates[name].append(num_batches * size / (time.process_time() - own))
    base = rates["numpy.memmap"]
    print(f"Reading {size} of {num_rows} rows, {num_rows // chunk_rows} chunks: rows per CPU-s")
    found = {}
    for name, values in rates.items():
        ratio = spread([one / other for one, other in zip(values, base, strict=True)])
        found[name] = {"per_cpu_s": spread(values), "ratio": ratio}
        print(f"  {name:18}{found[name]['per_cpu_s']['median']:14,.0f}{ratio['median']:9.3f} x")
    return {"rows": num_rows, "chunks": num_rows // chunk_rows, "readers": found}


if __name__ == "__main__":
    main()
