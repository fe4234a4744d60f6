"""A training step: the learning rate, the loss, the optimizer."""

import math

import torch

from bench.joint.learner import TwoTowers
from jest_loader.batch import Batch
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss

LR = 0.03
_WARM_UP = 0.05


class Trainer:
    """Adam without weight decay, since a step touches few of the rows; the rate falls as a cosine.

    Args:
        model: What is trained.
        loss: Its loss.
        num_steps: Of the whole run.
        lr: The largest learning rate.
    """

    def __init__(self, model: TwoTowers, loss: Loss, num_steps: int, lr: float = LR) -> None:
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        self._model, self._loss, self._num_steps, self._lr = model, loss, num_steps, lr

    def step(self, batch: Batch, step: int) -> None:
        """Train on a batch; ``step`` counts from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * self._factor(step)
        loss = contrastive_loss(self._model.embed(batch), self._loss)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _factor(self, step: int) -> float:
        part = (step + 1) / self._num_steps
        return min(1.0, part / _WARM_UP) * (1 + math.cos(math.pi * part)) / 2
