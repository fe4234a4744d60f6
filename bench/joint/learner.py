"""What is trained: two towers of averaged n-gram embeddings."""

import math

import torch
from torch import nn
from torch.nn.functional import normalize

from bench.joint.dictionary import NUM_GRAMS
from jest_loader import Embeddings
from jest_loader.batch import Batch
from jest_loader.protocols import Loss

WIDTH = 64
_FIRST_SCALE = 10.0


class TwoTowers(nn.Module):
    """Each text is the mean of its n-grams' vectors, at unit norm.

    Args:
        loss: The loss that it is trained with; a softmax model has no bias.
        batch_size: Of training, at which the bias starts: among so many negatives a pair is as
            unlikely as one over the batch size.
        seed: Of the weights.
        width: Of the embeddings.
    """

    def __init__(self, loss: Loss, batch_size: int, seed: int, width: int = WIDTH) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.german, self.english = (_tower(width, generator) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        bias = torch.tensor(-math.log(batch_size)) if loss == "sigmoid" else None
        self.bias = None if bias is None else nn.Parameter(bias)

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings [B, width] of the columns ``german`` and ``english``, int32 [B, grams]."""
        german, english = self.german(batch["german"]), self.english(batch["english"])
        scale = self.log_scale.exp()
        return Embeddings(normalize(german, dim=1), normalize(english, dim=1), scale, self.bias)


def _tower(width: int, generator: torch.Generator) -> nn.EmbeddingBag:
    tower = nn.EmbeddingBag(NUM_GRAMS, width, mode="mean", padding_idx=0)
    with torch.no_grad():
        tower.weight.normal_(std=0.1, generator=generator)
        tower.weight[0] = 0
    return tower
