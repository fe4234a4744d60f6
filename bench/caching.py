"""What a reference cache costs to build and to read.

Building: batches in memory, the demo's model with embeddings of width 512, on the CPU. Examples per
second of ``reference_cache.build`` stand next to a bare loop, which embeds the same batches and
drops the result, and to building from ready embeddings, which is the cost that building adds. A
larger model takes longer per example; the added cost stays.

Reading: rows gathered at random, as a super-batch needs them, with the page cache warm, in one
thread; rows per CPU-second, next to ``numpy.memmap`` over one file and to Zarr's own ``oindex``
over the same cache. All forms take turns in rounds.

    OMP_NUM_THREADS=1 python -m bench.caching > bench/results/caching_cpu.txt

The last line of the output is one JSON document.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zarr

from bench.harness import in_rounds, once_s, parser_of, print_document, ratios, spread, unit_rows
from jest_loader import CachedReference, Embeddings, FrozenReference
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.protocols import Embedder
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
    """An embedder that costs nothing: it returns ready embeddings in turn, again and again."""

    def __init__(self, embeddings: list[Embeddings]) -> None:
        self._embeddings = itertools.cycle(embeddings)

    def embed(self, batch: object) -> Embeddings:
        """The next."""
        return next(self._embeddings)


def main() -> None:
    """Print figures, and then all of them as one JSON document."""
    parser = parser_of(__doc__, smoke=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "building": building(Path(folder), smoke=arguments.smoke),
            "reading": reading(Path(folder), smoke=arguments.smoke),
        }
    print_document(figures, packages=["zarr"])


def building(folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Examples per second of building, of the bare loop, and of building without a model."""
    num_rows, rounds = (512, 2) if smoke else (4096, 5)
    model = TwoTower(MODEL)
    runs = builders(folder, num_rows, FrozenReference(model))
    for run in runs.values():
        run()
    taken = in_rounds(runs, rounds, once_s)
    rates = {name: [num_rows / t.wall for t in times] for name, times in taken.items()}
    cpu = {name: [num_rows / t.cpu for t in times] for name, times in taken.items()}
    added = 1 / median(cpu["no model"])
    found = {
        "rows": num_rows,
        "flops_per_row": model.forward_flops(),
        "per_s": {name: spread(values) for name, values in rates.items()},
        "per_cpu_s": {name: spread(values) for name, values in cpu.items()},
        "ratio": spread(ratios(rates["cache"], rates["bare"])),
        "cpu_ratio": spread(ratios(cpu["cache"], cpu["bare"])),
        "added_cpu_us": 1e6 * added,
        "added_share": added * median(cpu["bare"]),
    }
    show_building(found)
    return found


def builders(
    folder: Path, num_rows: int, reference: FrozenReference
) -> dict[str, Callable[[], object]]:
    """The bare loop, a build with the model, and a build from its ready embeddings."""
    source = [
        {
            "image": torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8),
            "text": torch.randint(1, 8192, (256, 8)),
            "sample_id": np.arange(first, first + 256),
        }
        for first in range(0, num_rows, 256)
    ]

    def bare() -> None:
        for batch in source:
            reference.embed(batch)

    def cache(embedder: Embedder) -> None:
        build(folder / "built", source, embedder, chunk_rows=num_rows // 4, overwrite=True)

    known = Known([reference.embed(batch) for batch in source])
    return {
        "bare": bare,
        "cache": partial(cache, reference),
        "no model": partial(cache, known),
    }


def show_building(found: dict[str, Any]) -> None:
    """A table of rates, and what building adds."""
    print(f"Building, {found['rows']} examples of width {WIDTH}: examples per s (per CPU-s)")
    for name, rates in found["per_s"].items():
        per_cpu_s = found["per_cpu_s"][name]["median"]
        print(f"  {name:10}{rates['median']:12,.0f}{per_cpu_s:14,.0f}")
    ratio, cpu_ratio = (found[name]["median"] for name in ("ratio", "cpu_ratio"))
    print(f"  cache / bare: {ratio:.3f} of the wall clock, {cpu_ratio:.3f} of CPU")
    print(f"  added per example: {found['added_cpu_us']:.1f} us of CPU, {found['added_share']:.1%}")


def reading(folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Rows of both sides per CPU-second, gathered at random."""
    num_rows, chunk_rows, size, rounds = (2048, 128, 64, 2) if smoke else (1 << 17, 2048, 5120, 7)
    readers = readers_of(folder, num_rows, chunk_rows)
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, num_rows, size) for _ in range(16)]
    # Zarr takes so long that one batch has to do.
    parts = {name: batches[:1] if name == "zarr oindex" else batches for name in readers}

    def run(name: str) -> None:
        for ids in parts[name]:
            readers[name](ids)

    for name in readers:
        if name != "zarr oindex":
            run(name)
    taken = in_rounds({name: partial(run, name) for name in readers}, rounds, once_s)
    rates = {
        name: [len(parts[name]) * size / seconds.cpu for seconds in times]
        for name, times in taken.items()
    }
    print(f"Reading {size} of {num_rows} rows, {num_rows // chunk_rows} chunks: rows per CPU-s")
    found = {}
    for name, values in rates.items():
        ratio = spread(ratios(values, rates["numpy.memmap"]))
        found[name] = {"per_cpu_s": spread(values), "ratio": ratio}
        print(f"  {name:18}{median(values):14,.0f}{ratio['median']:9.3f} x")
    return {"rows": num_rows, "chunks": num_rows // chunk_rows, "readers": found}


def readers_of(folder: Path, num_rows: int, chunk_rows: int) -> dict[str, Callable[[Any], object]]:
    """Each way to read the rows of some ids, from one cache that is built first."""
    source = ({"sample_id": np.arange(first, first + 128)} for first in range(0, num_rows, 128))
    rows = unit_rows(128, WIDTH, torch.Generator().manual_seed(0))
    known = Known([Embeddings(rows, rows.roll(1, 0), 10.0, -5.0)])
    build(folder / "cache", source, known, chunk_rows=chunk_rows)
    cached = CachedReference.open(folder / "cache")
    group: Any = zarr.open_group(folder / "cache", mode="r")
    arrays = {side: group[side] for side in ("image", "text")}
    maps = []
    for side, array in arrays.items():
        array[:].tofile(folder / side)
        maps.append(np.memmap(folder / side, np.float16, "r", shape=(num_rows, WIDTH)))
    return {
        "numpy.memmap": lambda ids: [one[ids] for one in maps],
        "CachedReference": lambda ids: cached.embed({"sample_id": ids}),
        "zarr oindex": lambda ids: [array.oindex[ids] for array in arrays.values()],
    }


if __name__ == "__main__":
    main()
