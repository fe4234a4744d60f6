"""Parts of a data set that are chosen once, ahead of training, from a reference's embeddings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.training.data import COLUMNS
from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import write_mds
from jest_loader.reference_cache import CachedReference

_CLUSTERS = 256
_ROUNDS = 10


def best_by_reference(data: Path, cache: Path, out: Path, *, keep: float) -> Path:
    """The share ``keep`` of the rows whose image and caption the reference finds most alike.

    Each row's easy-reference score falls with its own loss, which falls with that likeness.
    """
    if not (out / "index.json").is_file():
        _write(data, out, best_rows(data, cache, keep=keep))
    return out


def best_rows(data: Path, cache: Path, *, keep: float) -> Tensor:
    """Their places in the data, int64, the best first."""
    image, text = _embeddings(data, cache)
    alike = (image * text).sum(dim=1)
    return alike.topk(int(keep * len(alike))).indices


def least_alike(data: Path, cache: Path, out: Path, *, keep: float) -> Path:
    """Semantic deduplication (arXiv 2303.09540): the rows least like one kept before them.

    Images are clustered by k-means; within a cluster, from its edge to its middle, each image is as
    redundant as it is like the most similar one before it.
    """
    if not (out / "index.json").is_file():
        image, _ = _embeddings(data, cache)
        cluster, centres = _k_means(image)
        redundancy = torch.zeros(len(image))
        for number in range(len(centres)):
            rows = (cluster == number).nonzero()[:, 0]
            rows = rows[(image[rows] @ centres[number]).argsort()]
            alike = torch.cat([_most_like_earlier(image[rows], part) for part in _blocks(rows)])
            redundancy[rows] = alike
        _write(data, out, redundancy.topk(int(keep * len(image)), largest=False).indices)
    return out


def joined(data: list[Path], out: Path) -> Path:
    """All rows of several data sets, in random order."""
    if not (out / "index.json").is_file():
        rows = [row for path in data for row in _rows(path)]
        order = np.random.default_rng(0).permutation(len(rows))
        write_mds(out, COLUMNS, (rows[place] for place in order))
    return out


def _embeddings(data: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """The reference's image and text embeddings of all rows, fp32."""
    num_rows = MdsSource(data, batch_size=1).num_examples
    found = CachedReference.open(cache).embed({"sample_id": torch.arange(num_rows)})
    return found.image.float(), found.text.float()


def _k_means(points: Tensor) -> tuple[Tensor, Tensor]:
    """The cluster of each point and the clusters' centres, all of unit norm."""
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:_CLUSTERS]]
    for _ in range(_ROUNDS):
        cluster = torch.cat(
            [(part @ centres.T).argmax(dim=1) for part in torch.split(points, 1 << 14)]
        )
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        centres = torch.nn.functional.normalize(sums, dim=1)
    return cluster, centres


def _blocks(rows: Tensor) -> Iterator[range]:
    for start in range(0, len(rows), 2048):
        yield range(start, min(start + 2048, len(rows)))


def _most_like_earlier(points: Tensor, block: range) -> Tensor:
    """For each point of the block, its cosine with the most similar point before it; -1 if none."""
    cosine = points[block.start : block.stop] @ points[: block.stop].T
    earlier = torch.ones_like(cosine, dtype=torch.bool).tril(block.start - 1)
    return cosine.masked_fill(~earlier, -1).amax(dim=1)


def _write(data: Path, out: Path, kept: Tensor) -> None:
    keep = set(kept.tolist())
    rows = (row for place, row in enumerate(_rows(data)) if place in keep)
    print(json.dumps({"subset": str(out), "rows": write_mds(out, COLUMNS, rows)}), flush=True)


def _rows(data: Path) -> Iterator[dict[str, Any]]:
    source = MdsSource(data, batch_size=1024, shuffle=False, drop_last=False)
    for batch in source:
        for place in range(len(batch["caption"])):
            yield {name: batch[name][place] for name in COLUMNS}
