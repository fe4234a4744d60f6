"""An embedder that runs a small model in the learner's place and trains it alongside."""

from typing import Any, Unpack

import torch
from torch import nn
from torch.optim import Optimizer

from jest_loader.batch import Batch
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss
from jest_loader.scoring.embedding_checks import check_loss
from jest_loader.scoring.groups import check_column, group_ids
from jest_loader.scoring.models import EmbedFunction, ModelEmbedder
from jest_loader.scoring.runner import RunOptions
from jest_loader.scoring.wrappers import device_of, unwrapped, without_compiler


class OnlineProxy(ModelEmbedder):
    """Embeds with a small model in the learner's place, which trains on each sub-batch.

    The learner is then never run on candidates. The weights are not part of the dataset's state:
    save ``state_dict()`` beside it.

    Args:
        model: The small model; its ``embed`` must be differentiable. In DDP it is trained through
            ``forward``, which must then return what ``embed`` does.
        optimizer: Over the model's parameters.
        embed: ``embed(model, batch) -> Embeddings``, or None for ``model.embed(batch)``; while
            training it is given ``model`` itself.
        loss: The contrastive loss that it is trained with.
        equal_by: A column of the sub-batch whose equal values are not each other's negatives in
            that loss; None for none.
        options: How the model is run, as ``RunOptions`` describes; ``prepare`` is called in
            training too.

    Raises:
        ValueError: as ``ModelEmbedder``, or if ``loss`` is not known, ``equal_by`` names no column
            or ``optimizer`` trains none of the model's weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        embed: EmbedFunction | None = None,
        *,
        loss: Loss = "sigmoid",
        equal_by: str | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        super().__init__(model, embed, **options)
        check_loss(loss)
        check_column(equal_by)
        _check_optimizer(optimizer, model)
        self.optimizer = optimizer
        self.loss = loss
        self.equal_by = equal_by

    def update(self, sub_batch: Batch) -> None:
        """One optimizer step on the sub-batch's contrastive loss, outside autocast.

        Raises:
            ValueError: if the loss is not finite, or the sub-batch has no column ``equal_by``; the
                weights are left as they were.
        """
        groups = group_ids(sub_batch, self.equal_by)
        with torch.enable_grad(), torch.autocast(device_of(self.model).type, enabled=False):
            loss = contrastive_loss(self._runner.call(self.model, sub_batch), self.loss, groups)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the online proxy's loss must be finite, got {loss.item()}; "
                "lower its learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def snapshot(self) -> "OnlineProxy":
        """Itself: its weights change in ``update`` only, never while it scores."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """The states of the model, without DDP's and the compiler's prefixes, and the optimizer."""
        return {
            "model": without_compiler(unwrapped(self.model)).state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        without_compiler(unwrapped(self.model)).load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])


def _check_optimizer(optimizer: object, model: nn.Module) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"a proxy's optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not any(weight.requires_grad and id(weight) in trained for weight in model.parameters()):
        raise ValueError(
            "a proxy's optimizer must hold weights of its model that require gradients, but holds "
            "none; make it of model.parameters()"
        )
