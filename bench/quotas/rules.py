"""Rules by which ranks choose a sub-batch together: the package's, and two that it has not."""

import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.quotas.clusters import Pair
from jest_loader import FactoredScores, Selector
from jest_loader.ops.noise import fold
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Collective, Ranks, ranks_of
from jest_loader.selecting.drawing import perturbed
from jest_loader.selecting.selectors import chunk_sizes
from jest_loader.testing import simulate_ranks

NUM_CHUNKS = 16


def by_selector(
    selector: Selector, pair: Pair, num_ranks: int, share: int, seed: int
) -> list[Tensor]:
    """What a selector of the package chooses: each rank's int64 [n], candidates' numbers in order.

    Args:
        selector: On each rank, a thread of this process.
        pair: Embeddings of all candidates, dealt to the ranks.
        num_ranks: Ranks.
        share: How many each is to choose.
        seed: Chooses the noise.
    """
    run = partial(_select, selector=selector, pair=pair, share=share, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quota="local"
        return simulate_ranks(num_ranks, run)


def _select(group: Collective, *, selector: Selector, pair: Pair, share: int, seed: int) -> Tensor:
    rows = slice(group.rank, None, group.size)
    learner, reference = (
        replace(side, image=side.image[rows], text=side.text[rows]) for side in pair
    )
    scores = RankScores(FactoredScores(learner, reference), ranks_of(group))
    return selector.select(scores, share, key=seed) * group.size + group.rank


def by_one_quota(pair: Pair, num_ranks: int, share: int, seed: int) -> Tensor:
    """Int64 [num_ranks * share]: chunks drawn from all candidates whose rank has room left."""
    scores = _scores(pair)
    room = torch.full((num_ranks,), share)
    chosen: list[Tensor] = []
    for chunk, size in enumerate(chunk_sizes(num_ranks * share, NUM_CHUNKS)):
        scores = scores.given(chosen[-1]) if chosen else scores
        allowed = _allowed(perturbed(scores, fold(seed, chunk), 1.0), room)
        chosen.append(allowed[:size])
        room = room - (chosen[-1] % num_ranks).bincount(minlength=num_ranks)
    return torch.cat(chosen)


def redrawn(pair: Pair, chosen: Tensor, seed: int) -> Tensor:
    """Int64 [num_ranks * share]: each chunk drawn once more, given all other chunks.

    Args:
        pair: Embeddings of all candidates.
        chosen: Int64 [num_ranks, share], what ranks with equal quotas chose, in order.
        seed: Chooses the noise.
    """
    num_ranks, share = chosen.shape
    scores, sizes = _scores(pair), chunk_sizes(share, NUM_CHUNKS)
    chunks = [chunk.flatten() for chunk in torch.split(chosen, sizes, dim=1)]
    for chunk, size in enumerate(sizes):
        given = scores.given(torch.cat(chunks[:chunk] + chunks[chunk + 1 :]))
        values = perturbed(given, fold(seed, chunk, 1), 1.0)
        chunks[chunk] = _allowed(values, torch.full((num_ranks,), size))
    return torch.cat(chunks)


def _scores(pair: Pair) -> RankScores:
    return RankScores(FactoredScores(*pair), Ranks())


def _allowed(values: Tensor, room: Tensor) -> Tensor:
    """Int64 [sum of room]: the best candidates of each rank, as many as it has room for."""
    order = values.argsort(descending=True)
    is_of = (order % len(room))[:, None] == torch.arange(len(room))
    return order[((is_of.cumsum(dim=0) <= room) & is_of).any(dim=1)]
