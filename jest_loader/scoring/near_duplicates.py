"""How many examples of a batch a model hardly tells from another one in it."""

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import block_rows, exact

THRESHOLD = 0.95
"""The least cosine of near-duplicates.

Where an image and its own text coincide, the logit with such a look-alike's text is lower by 0.05
of the scale: by 5 at CLIP's last, 100, and by half of one at SigLIP's first, 10.
"""


def near_duplicates(embeddings: Embeddings, threshold: float = THRESHOLD) -> Tensor:
    """[]: the share of rows that have another one as close as ``threshold``; costs O(B^2 D).

    Two rows are close where the cosine of their images, or that of their texts, is at least
    ``threshold``: equal rows are. The products are made a block of rows at a time.

    Args:
        embeddings: One model's view of the batch; rows without an embedding have no look-alike.
        threshold: The least cosine.
    """
    both = exact(embeddings)
    close = torch.zeros(len(both.image), dtype=torch.bool, device=both.image.device)
    for side in (both.image, both.text):
        close |= _nearest(side.detach()) >= threshold
    return close.to(both.image.dtype).mean()


def _nearest(rows: Tensor) -> Tensor:
    """[B]: the cosine of each of ``rows`` (unit [B, D]) with the nearest other one."""
    nearest = rows.new_full((len(rows),), -torch.inf)
    size = block_rows(rows, len(rows))
    for start in range(0, len(rows), size):
        cosines = rows[start : start + size] @ rows.T
        cosines.diagonal(start).fill_(-torch.inf)  # Each row is nearest to itself.
        nearest[start : start + size] = cosines.amax(dim=1)
    return nearest
