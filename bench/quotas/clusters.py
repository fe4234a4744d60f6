"""Candidates whose hard negatives are the others of their cluster, dealt to ranks."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.harness import unit_rows
from jest_loader import Embeddings

Pair = tuple[Embeddings, Embeddings]
"""Learner's and reference's embeddings of the same candidates."""

CLUSTER_SIZE = 40


def dealt_clusters(size: int, num_ranks: int, skew: float, seed: int) -> Pair:
    """The candidates in the order of dealing: candidate i is rank i % num_ranks's.

    Args:
        size: Candidates.
        num_ranks: Among whom they divide evenly.
        skew: The share of them that is dealt in the order of their clusters.
        seed: Chooses everything.
    """
    pair, cluster = clustered(size, seed=seed)
    random = torch.rand(2, size, generator=torch.Generator().manual_seed(seed))
    place = torch.where(random[0] < skew, cluster / cluster.max(), random[1])
    order = place.argsort().reshape(num_ranks, -1).T.flatten()
    learner, reference = (
        replace(side, image=side.image[order], text=side.text[order]) for side in pair
    )
    return learner, reference


def clustered(size: int, *, seed: int) -> tuple[Pair, Tensor]:
    """A learner that tells clusters apart, and a reference that also tells their members apart."""
    generator = torch.Generator().manual_seed(seed)
    num_clusters = size // CLUSTER_SIZE
    unit = partial(unit_rows, width=32, generator=generator)
    cluster = torch.randint(num_clusters, (size,), generator=generator)
    centre, own = unit(num_clusters)[cluster], unit(size)
    tight = (0.3 + 1.2 * torch.rand(num_clusters, 1, generator=generator))[cluster]

    def side(
        at_centre: Any, at_own: float, noise: float, logit_scale: float, logit_bias: float
    ) -> Embeddings:
        image, text = (
            normalize(at_centre * centre + at_own * own + noise * unit(size), dim=1)
            for _ in range(2)
        )
        return Embeddings(image, text, logit_scale, logit_bias)

    return (side(tight, 0.5, 0.5, 12.0, -8.0), side(0.5, 1.0, 0.4, 16.0, -9.0)), cluster
