"""Algorithm 1 of arXiv 2406.17711 in NumPy, from its description: with the full matrix.

The specification that the selectors are tested against, and what they are timed against. None of
its arithmetic is ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Score = Callable[[NDArray[np.int64]], Float]
Draw = Callable[[Float, int], NDArray[np.int64]]


def jointly_sample(score: Score, size: int, num_chunks: int, draw: Draw) -> NDArray[np.int64]:
    """Row indices of a sub-batch of ``size``, drawn in chunks by their scores given the others."""
    chosen = np.empty(0, dtype=np.int64)
    for chunk in np.array_split(np.arange(size), num_chunks):
        logits = score(chosen)
        logits[chosen] = -np.inf
        chosen = np.concatenate([chosen, draw(logits, len(chunk))])
    return chosen


def choice(random: np.random.Generator) -> Draw:
    """Draw without replacement with p proportional to exp(logits)."""

    def draw(logits: Float, size: int) -> NDArray[np.int64]:
        weights = np.exp(logits - logits.max()).astype(np.float64)
        return random.choice(len(logits), size=size, replace=False, p=weights / weights.sum())

    return draw


def sum_of_pairs(pairwise: Float) -> Score:
    """Candidates' scores given the chosen ones, from the matrix of pairwise scores."""

    def score(chosen: NDArray[np.int64]) -> Float:
        indicator = np.zeros(len(pairwise), pairwise.dtype)
        indicator[chosen] = 1.0
        scores: Float = np.diag(pairwise) + indicator @ pairwise + pairwise @ indicator
        return scores

    return score


def sigmoid_pairwise(image: Float, text: Float, logit_scale: float, logit_bias: float) -> Float:
    """SigLIP's pairwise losses: -log sigmoid of the logit, its sign turned off the diagonal."""
    logits = logit_scale * image @ text.T + logit_bias
    signs = 2 * np.eye(len(logits), dtype=logits.dtype) - 1
    return np.logaddexp(logits.dtype.type(0), -signs * logits)


def softmax_loss(image: Float, text: Float, logit_scale: float, chosen: list[int], i: int) -> float:
    """CLIP's loss of pair i when the batch is ``chosen`` and i, one candidate at a time."""
    logits = logit_scale * image @ text.T
    batch = sorted({*chosen, i})
    forward = np.logaddexp.reduce([logits[i, j] for j in batch])
    backward = np.logaddexp.reduce([logits[j, i] for j in batch])
    return float((forward + backward) / 2 - logits[i, i])
