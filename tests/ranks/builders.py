"""What tests of ranks share: candidates dealt to ranks, and a loader on each.

Ranks are real processes over gloo where processes matter, threads elsewhere.
"""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from jest_loader import (
    Embeddings,
    FactoredScores,
    JestDataset,
    JointSelector,
    UniformSelector,
)
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import ranks_of
from jest_loader.testing import simulate_ranks
from tests.helpers import jest_dataset, random_embeddings

LOSSES = ["sigmoid", "softmax"]

CASES = [(loss, seed) for loss in LOSSES for seed in range(12)]


def sides(size: int, *, seed: int, dtype=torch.float64, width=12) -> tuple[Embeddings, Embeddings]:
    learner = random_embeddings(
        size, width, seed=2 * seed, logit_scale=12.0, logit_bias=-3.0, dtype=dtype
    )
    reference = random_embeddings(
        size,
        width + 3,
        seed=2 * seed + 1,
        logit_scale=15.0,
        logit_bias=-4.0,
        agreement=2.0,
        dtype=dtype,
    )
    return learner, reference


def dealt(side: Embeddings, rank: int, num_ranks: int) -> Embeddings:
    return replace(side, image=side.image[rank::num_ranks], text=side.text[rank::num_ranks])


def picks(rank, num_ranks, selector, cases, *, group=None) -> list[list[int]]:
    """For each (loss, seed), the numbers among all candidates of what this rank has chosen."""
    found = []
    for loss, seed in cases:
        shares = [dealt(side, rank, num_ranks) for side in sides(60, seed=seed)]
        scores = RankScores(FactoredScores(*shares, loss), ranks_of(group))
        index = selector.select(scores, 24 // num_ranks, key=seed)
        found.append((index * num_ranks + rank).tolist())
    return found


@dataclass(frozen=True)
class ByNumber:
    """Scores each row by its number, whichever rank it is on."""

    loss: str = "sigmoid"

    def score(self, super_batch):
        rows = torch.as_tensor(super_batch["number"])
        return FactoredScores(
            *(replace(s, image=s.image[rows], text=s.text[rows]) for s in sides(240, seed=0)),
            self.loss,
        )


def dataset(folder, group, num_ranks: int, quota="global", **options: Any) -> JestDataset:
    """Of 48 candidates over all ranks 12 are chosen; a fifth of an epoch a time."""
    source = ZarrSource(folder, batch_size=24 // num_ranks, seed=5)
    options = {
        "super_batch_size": 48 // num_ranks,
        "sub_batch_size": 12 // num_ranks,
        "prefetch": 1,
    } | options
    return jest_dataset(source, ByNumber(), JointSelector(4, quota=quota), group=group, **options)


def run_epochs(folder, group, num_ranks, state=None, stop=None, **options):
    """Ids of each sub-batch of two epochs, and the state at the end or once ``stop`` are read."""
    loader = dataset(folder, group, num_ranks, **options)
    if state is not None:
        loader.load_state_dict(json.loads(json.dumps(state)))
    found = []
    for epoch in range(loader.epoch, 2):
        loader.set_epoch(epoch)
        for batch in loader:
            found.append(batch["sample_id"].tolist())
            if len(found) == stop:
                return found, loader.state_dict()
    return found, loader.state_dict()


def over_ranks(folder, num_ranks, **options) -> tuple[list[set[int]], dict[str, Any]]:
    """What all ranks chose together, step by step; their states must be one."""
    ended = simulate_ranks(num_ranks, lambda group: run_epochs(folder, group, num_ranks, **options))
    assert len({json.dumps(state, sort_keys=True) for _, state in ended}) == 1
    steps = zip(*(batches for batches, _ in ended), strict=True)
    together = []
    for step in steps:
        assert {len(batch) for batch in step} == {12 // num_ranks}
        together.append({row for batch in step for row in batch})
        assert len(together[-1]) == 12
    return together, ended[0][1]


class Consecutive:
    """A source that some ranks have less of, or that fails on one of them."""

    def __init__(self, num_batches: int, fails_at: int | None = None, pause_s: float = 0.0):
        self.num_batches, self.fails_at, self.pause_s = num_batches, fails_at, pause_s
        self.batch_size = 4

    def __iter__(self):
        for number in range(self.num_batches):
            time.sleep(self.pause_s)
            if number == self.fails_at:
                raise OSError("the disk is gone")
            yield {"number": torch.arange(4 * number, 4 * number + 4)}


def read(source, group=None) -> tuple[int, dict[str, int]]:
    """The length and counts of a pass over rows that are numbered alike on all ranks."""
    loader = jest_dataset(
        source, None, UniformSelector(), super_batch_size=8, sub_batch_size=2, group=group,
        own_rows=True,
    )  # fmt: skip
    return len(list(loader)), loader.counts.to_dict()
