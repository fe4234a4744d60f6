"""Algorithm 1 of arXiv 2406.17711 in NumPy, from its description: the full matrix, fp64.

The specification that the selectors are tested against. It draws with NumPy's ``choice``, so none
of its arithmetic is ours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def jointly_sample(
    pairwise: Float, size: int, num_chunks: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Row indices of a sub-batch of ``size`` from the matrix of pairwise scores."""
    num_candidates = len(pairwise)
    own = np.diag(pairwise)
    chosen = np.empty(0, dtype=np.int64)
    for chunk in np.array_split(np.arange(size), num_chunks):
        indicator = np.zeros(num_candidates)
        indicator[chosen] = 1.0
        logits = own + indicator @ pairwise + pairwise @ indicator
        logits[chosen] = -np.inf
        drawn = choice(logits, len(chunk), random)
        chosen = np.concatenate([chosen, drawn])
    return chosen


def choice(logits: Float, size: int, random: np.random.Generator) -> NDArray[Any]:
    """Draw without replacement with p proportional to exp(logits)."""
    weights = np.exp(logits - logits.max())
    return random.choice(len(logits), size=size, replace=False, p=weights / weights.sum())


def sigmoid_pairwise(image: Float, text: Float, scale: float, bias: float) -> Float:
    """SigLIP's pairwise losses: -log sigmoid of the logit, its sign turned off the diagonal."""
    logits = scale * image @ text.T + bias
    signs = 2 * np.eye(len(logits)) - 1
    return np.logaddexp(0.0, -signs * logits)


def softmax_loss(image: Float, text: Float, scale: float, chosen: list[int], i: int) -> float:
    """CLIP's loss of pair i when the batch is ``chosen`` and i, one candidate at a time."""
    logits = scale * image @ text.T
    batch = sorted({*chosen, i})
    forward = np.logaddexp.reduce([logits[i, j] for j in batch])
    backward = np.logaddexp.reduce([logits[j, i] for j in batch])
    return float((forward + backward) / 2 - logits[i, i])
