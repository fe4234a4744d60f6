"""An average of a model's weights over its steps."""

from copy import deepcopy

import torch
from torch import Tensor

from jest_loader.clip.models.model import ClipModel


class AverageWeights:
    """An exponential moving average of a model's weights, in a copy of the model.

    Args:
        model: The average starts from its weights as they are now.
        decay: Share of the average that stays at each update.
    """

    def __init__(self, model: ClipModel, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(requires_grad=False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, model: ClipModel) -> None:
        """Move the average towards the model's weights; buffers are taken as they are."""
        ours: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self._decay)
        for own, other in zip(self.model.buffers(), model.buffers(), strict=True):
            own.copy_(other)
