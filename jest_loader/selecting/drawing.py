"""Draws: candidates without replacement, by their logits.

Drawing without replacement with p proportional to exp(logits) is the same as taking the largest of
``logits + Gumbel noise`` (Gumbel-top-k; Vieira 2014, Kool et al. arXiv 1903.06059). It needs no
normaliser, so it neither overflows nor runs out of non-zero probabilities. A candidate without a
finite score is not drawn.

The top-k of a union is the top-k of the union of the top-ks: an exact draw over several ranks needs
only the k best of each rank.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from jest_loader.ops import dispatch
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Ranks

_NOT_DRAWABLE = 1 << 62


class Draw(NamedTuple):
    """What was drawn: the scores with their noise, the candidates, and how many on each rank."""

    perturbed: Tensor
    candidates: Tensor
    counts: list[int]


def draw(scores: RankScores, size: int, key: int, *, gain: float, exact: bool = False) -> Draw:
    """Draw candidates with p proportional to exp(gain * logits); see ``best`` for the arguments."""
    return best(perturbed(scores, key, gain), size, scores.ranks, exact=exact)


def best(values: Tensor, size: int, ranks: Ranks, *, exact: bool) -> Draw:
    """The largest values and the candidates that they belong to.

    Args:
        values: Floating [B], one for each of this rank's candidates.
        size: How many to draw.
        ranks: The ranks that draw together.
        exact: Whether to draw ``size`` from the candidates of all ranks together, and return this
            rank's part of them; otherwise ``size`` from its own.
    """
    own = values.topk(min(size, len(values)))
    if not exact:
        return Draw(*own, [len(own.values)] * ranks.size)
    everyones = ranks.all_gather(own.values)
    # Stable, so that all ranks order what is equal in the same way.
    order = everyones.flatten().sort(descending=True, stable=True).indices[:size]
    owners = order.cpu() // everyones.shape[1]  # The counts wait for the device.
    counts = owners.bincount(minlength=ranks.size).tolist()
    mine = counts[ranks.rank]  # What a rank offers is in order, so its first ones are drawn.
    return Draw(own.values[:mine], own.indices[:mine], counts)


def perturbed(scores: RankScores, key: int, gain: float) -> Tensor:
    """The logits times ``gain``, with their noise."""
    return dispatch.perturbed(scores.logits, key, gain=gain, share=scores.ranks.share)


def checked(draws: list[Draw]) -> Tensor:
    """The drawn candidates, in order; marks or refuses those that have no finite score.

    Raises:
        ValueError: on the CPU, if fewer candidates can be drawn than asked for.
    """
    index = torch.cat([draw.candidates for draw in draws])
    drawable = torch.isfinite(torch.cat([draw.perturbed for draw in draws]))
    index = torch.where(drawable, index, index + _NOT_DRAWABLE)
    if index.is_cpu:
        check_finite(index)
    return index


def check_finite(index: Tensor) -> None:
    """Refuse a sub-batch for which too few candidates had a finite score.

    On the CPU selectors call this themselves. On an accelerator they would have to wait for the
    device, so there they mark a row without a finite score by adding 2^62, and ``JestDataset``
    calls this once the index is on the host.

    Raises:
        ValueError: if ``index`` holds a marked row.
    """
    rows = sorted((index[index >= _NOT_DRAWABLE] - _NOT_DRAWABLE).tolist())
    if rows:
        raise ValueError(
            f"a sub-batch of {len(index)} needs as many candidates with finite scores, but "
            f"{len(rows)} had none (the first at row {rows[0]} of the super-batch); check the "
            "models' embeddings and logit_scale"
        )
