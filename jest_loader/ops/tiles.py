"""How the kernel of ``fused`` cuts its work: as was fastest on a device, or by a rule."""

import math
from typing import NamedTuple


class Tiles(NamedTuple):
    """Tile sizes in rows and columns, warps, depth of the pipeline of loads.

    Args:
        candidates: Candidates of a tile.
        chunk: Members of the chunk of a tile.
        width: Columns of the embeddings that are loaded at once.
        num_warps: Warps of a block.
        num_stages: Loads under way.
    """

    candidates: int
    chunk: int
    width: int
    num_warps: int
    num_stages: int


class Work(NamedTuple):
    """What there is to cut.

    Args:
        num_candidates: B.
        chunk_size: Members of the chunk.
        element_size: Bytes of a number of the embeddings, 2 or 4.
    """

    num_candidates: int
    chunk_size: int
    element_size: int


# By the device's name. ``python -m bench.gpu --report RESULT --tiles`` prints the entry of a device
# that ``make gpu`` has measured; a person puts it here.
FASTEST: dict[str, dict[Work, Tiles]] = {}

# What was measured speaks for sizes within this factor.
_NEAR = 2.0


def tiles_for(work: Work, shared_bytes: int, device: str = "") -> Tiles:
    """The fastest tiles where the device was measured at about such sizes, else those of the rule.

    Args:
        work: What there is to cut.
        shared_bytes: The most shared memory that a block may have on the device.
        device: The device's name, such as ``"NVIDIA H200"``.
    """
    near = {
        _distance(work, known): tiles
        for known, tiles in FASTEST.get(device, {}).items()
        if _distance(work, known) <= math.log(_NEAR)
    }
    return near[min(near)] if near else by_rule(work, shared_bytes)


def by_rule(work: Work, shared_bytes: int) -> Tiles:
    """The largest tiles that fit the registers and ``shared_bytes``, and are not mostly padding."""
    width = 128 // work.element_size  # One row of the copy engine's widest swizzle.
    is_hopper = shared_bytes >= 200_000  # Or later; only these multiply out of shared memory.
    if is_hopper and work.element_size == 2 and work.chunk_size > 128:
        return Tiles(128, 256, width, num_warps=8, num_stages=4)
    largest = 128 if is_hopper or work.element_size == 2 else 64
    chunk = min(largest, max(16, 1 << (work.chunk_size - 1).bit_length()))
    # Small super-batches leave multiprocessors idle: cut them finer.
    candidates = largest if work.num_candidates > 16_384 else 64
    return Tiles(candidates, chunk, width, num_warps=8 if candidates == 128 else 4, num_stages=3)


def _distance(work: Work, known: Work) -> float:
    """The larger logarithm of the ratios of sizes; infinite between element sizes."""
    if work.element_size != known.element_size:
        return math.inf
    return max(abs(math.log(own / other)) for own, other in zip(work[:2], known[:2], strict=True))
