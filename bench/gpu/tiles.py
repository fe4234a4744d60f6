"""The fused kernel in other tiles: which are the fastest, size by size.

Regime: the kernel alone, one direction pair of one model: all candidates against one chunk, under
the sigmoid loss. ``--report FOLDER --tiles`` prints what was fastest as lines of
``jest_loader/ops/tiles.py``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from bench.gpu.parts import Setting
from bench.harness import in_rounds, spread
from bench.selection import Size, clustered
from jest_loader import Embeddings
from jest_loader.ops.fused import Pairs
from jest_loader.ops.tiles import Tiles, Work, by_rule

SIZES = [Size(5120, 512), Size(163_840, 768), Size(40_960, 768)]
SMOKE_SIZES = [Size(60, 16, num_chunks=3)]
DTYPES = (torch.float16, torch.float32)

# Candidates, chunk, warps, stages; that of the rule is always tried too.
_SHAPES = (
    (64, 64, 4, 4),
    (64, 128, 4, 4),
    (64, 256, 4, 3),
    (128, 64, 4, 4),
    (128, 128, 4, 3),
    (128, 128, 8, 4),
    (128, 256, 8, 3),
    (256, 64, 8, 3),
    (256, 128, 8, 3),
)
_SMOKE_SHAPES = ((64, 16, 4, 2),)


def run(setting: Setting) -> None:
    """Try tiles for each dtype and size."""
    for dtype in DTYPES:
        for size in SMOKE_SIZES if setting.smoke else SIZES:
            key = f"{str(dtype).removeprefix('torch.')} {size.num_candidates}"
            setting.measure(key, partial(measure, size, dtype, setting))


def measure(size: Size, dtype: torch.dtype, setting: Setting) -> dict[str, Any]:
    """The time of each tiles that fit, and how far their sums are from those of the rule's."""
    side = clustered(
        size, seed=0, noise=1.2, logit_bias=-10.0, device=setting.device.type, dtype=dtype
    )
    chunk_size = size.sub_batch // size.num_chunks
    work = Work(size.num_candidates, chunk_size, dtype.itemsize)
    rule = by_rule(work, setting.device.shared_bytes)
    runs = {tiles: kernel(side, chunk_size, tiles) for tiles in candidates(rule, work, setting)}
    sums = {
        tiles: found for tiles, run in runs.items() if (found := run_if_it_fits(run)) is not None
    }
    calls = 1 if setting.smoke else 10
    fitting = {tiles: runs[tiles] for tiles in sums}
    ms = in_rounds(fitting, setting.rounds, partial(setting.device.ms, calls=calls))
    tried: list[dict[str, Any]] = [
        {"tiles": tiles, "ms": spread(ms[tiles]), "off_by": off_by(found, sums[rule])}
        for tiles, found in sums.items()
    ]
    fastest = min(tried, key=lambda one: one["ms"]["median"])
    return {
        "work": work,
        "rule": rule,
        "fastest": fastest["tiles"],
        "tried": tried,
        "do_not_fit": [tiles for tiles in runs if tiles not in sums],
    }


def candidates(rule: Tiles, work: Work, setting: Setting) -> list[Tiles]:
    """The tiles that are tried: the rule's first, none of which holds more than the chunk."""
    width = 128 // work.element_size
    shapes = _SMOKE_SHAPES if setting.smoke else _SHAPES
    others = [Tiles(rows, chunk, width, warps, stages) for rows, chunk, warps, stages in shapes]
    longest = max(16, work.chunk_size)
    return [rule, *(tiles for tiles in others if tiles.chunk <= longest and tiles != rule)]


def kernel(side: Embeddings, chunk_size: int, tiles: Tiles) -> Callable[[], Tensor]:
    """The kernel's sums over the first candidates as a chunk."""
    pairs = Pairs(side, tiles=tiles)
    return partial(
        pairs.sigmoid_loss, pairs.rows(torch.arange(chunk_size, device=side.image.device))
    )


def run_if_it_fits(run: Callable[[], Tensor]) -> Tensor | None:
    """What it returns; None if its tiles do not fit the device."""
    try:
        return run()
    except OutOfResources:
        return None


def off_by(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two forms' sums."""
    return float((found - expected).abs().max())
