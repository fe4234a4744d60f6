"""The best sub-batch that a search finds which has as many candidates from each rank.

Exchanges of a candidate for another of its rank, the best first, from random starts, until none of
those looked at helps. It sees each pair of candidates, which no rule of selection does, and costs
hundreds of times as much.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.quotas.clusters import Pair
from jest_loader.ops.plain import all_logits

NUM_STARTS = 2
WORST, BEST, LEAST_GAIN = 16, 48, 1e-6  # Of a rank, between which an exchange is looked for.


def best_found(pair: Pair, num_ranks: int, share: int) -> Tensor:
    """Int64 [num_ranks * share]: the best that is found from a few random starts."""
    own, pairs = _terms(pair)
    ranks = [torch.arange(rank, len(own), num_ranks) for rank in range(num_ranks)]
    found = [_from_start(own, pairs, ranks, share, start) for start in range(NUM_STARTS)]
    return max(found, key=lambda index: float(own[index].sum() + pairs[index][:, index].sum() / 2))


def _from_start(own: Tensor, pairs: Tensor, ranks: list[Tensor], share: int, start: int) -> Tensor:
    """From a random start, candidates of each rank exchanged while that helps."""
    generator = torch.Generator().manual_seed(start)
    chosen = torch.zeros(len(own), dtype=torch.bool)
    for rows in ranks:
        chosen[rows[torch.randperm(len(rows), generator=generator)[:share]]] = True
    worth = own + pairs[:, chosen].sum(dim=1)
    exchanged = True
    while exchanged:
        exchanged = sum(_exchanged(rows, chosen, worth, pairs) for rows in ranks) > 0
    return chosen.nonzero()[:, 0]


def _exchanged(rows: Tensor, chosen: Tensor, worth: Tensor, pairs: Tensor) -> bool:
    """Make the best exchange of one rank in place; whether there was one."""
    taken, free = rows[chosen[rows]], rows[~chosen[rows]]
    taken = taken[worth[taken].topk(min(WORST, len(taken)), largest=False).indices]
    free = free[worth[free].topk(min(BEST, len(free))).indices]
    gains = worth[free] - worth[taken][:, None] - pairs[taken][:, free]
    if gains.max() < LEAST_GAIN:
        return False
    at = int(gains.argmax())
    out, into = taken[at // len(free)], free[at % len(free)]
    chosen[out], chosen[into] = False, True
    worth += pairs[into] - pairs[out]
    return True


def _terms(pair: Pair) -> tuple[Tensor, Tensor]:
    """Fp64 [B] and [B, B]: what a candidate adds by itself, and with each other, both ways."""
    learner, reference = (all_logits(side) for side in pair)
    losses = []
    for logits in (learner, reference):
        logits.diagonal().neg_()
        losses.append(softplus(logits))
    pairs = (losses[0] - losses[1]).double()
    own = pairs.diagonal().clone()
    pairs.fill_diagonal_(0)
    return own, pairs + pairs.T
