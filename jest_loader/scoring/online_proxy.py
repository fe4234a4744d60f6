"""An embedder that runs a small model in the learner's place and trains it alongside."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jest_loader.batch import Batch
from jest_loader.checks import check_keywords, is_number, shown, whole
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss
from jest_loader.scoring.embedding_checks import check_loss
from jest_loader.scoring.groups import check_column, group_ids
from jest_loader.scoring.models import EmbedFunction, ModelEmbedder
from jest_loader.scoring.runner import RunOptions
from jest_loader.scoring.wrappers import device_of, unwrapped, without_compiler
from jest_loader.skipped import listed, named, use
from jest_loader.training_state import check_optimizer, check_weights


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
        clip_norm: Largest norm of the gradient; None does not clip it.
        scheduler: A learning-rate scheduler of the optimizer, stepped after each update by
            ``scheduler.step()``; None leaves the learning rate as it is.
        options: How the model is run, as ``RunOptions`` describes; ``prepare`` is called in
            training too.

    Raises:
        ValueError: as ``ModelEmbedder``, or if ``loss`` is not known, ``equal_by`` names no column,
            ``optimizer`` trains none of the model's weights, ``clip_norm`` is not positive, or
            ``scheduler`` is of another optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        embed: EmbedFunction | None = None,
        *,
        loss: Loss = "sigmoid",
        equal_by: str | None = None,
        clip_norm: float | None = None,
        scheduler: LRScheduler | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        check_keywords(options, RunOptions)  # It is trained on the sub-batches, so no batch size.
        super().__init__(model, embed, **options)
        check_loss(loss)
        check_column(equal_by)
        _check_optimizer(optimizer, model)
        _check_training(optimizer, clip_norm, scheduler)
        self.optimizer = optimizer
        self.loss = loss
        self.equal_by = equal_by
        self.clip_norm = clip_norm
        self.scheduler = scheduler

    def update(self, sub_batch: Batch) -> None:
        """One optimizer step on the sub-batch's contrastive loss, outside autocast.

        Rows for which ``embed`` or ``prepare`` raises ``SkipRowsError`` are skipped: in uniform
        steps nothing has scored them before.

        Raises:
            ValueError: if the loss or its gradient is not finite, no weight requires gradients, all
                rows are skipped, or the sub-batch has no column ``equal_by``; the weights are left
                as they were. If they are not finite after the step.
        """
        groups = group_ids(sub_batch, self.equal_by)
        with torch.enable_grad(), torch.autocast(device_of(self.model).type, enabled=False):
            embeddings, rows, reasons = use(partial(self._runner.call, self.model), sub_batch)
            if embeddings is None:
                raise ValueError(
                    "the online proxy must have rows to train on, but all of the sub-batch are "
                    f"skipped: {listed(named(reasons, sub_batch))}"
                )
            if groups is not None and reasons:
                groups = groups[rows]
            loss = contrastive_loss(embeddings, self.loss, groups)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the online proxy's loss must be finite, got {loss.item()}; "
                "lower its learning rate"
            )
        if not loss.requires_grad:
            raise ValueError(
                "the online proxy's loss must depend on weights that require gradients, but "
                "depends on none; do not freeze its model, nor embed without gradients"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        most = math.inf if self.clip_norm is None else self.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), most)
        if not torch.isfinite(norm):
            raise ValueError(
                f"the online proxy's gradient must be finite, but its norm is {norm.item()}; "
                "lower its learning rate"
            )
        self.optimizer.step()
        if not torch.isfinite(nn.utils.get_total_norm(self.model.parameters())):
            raise ValueError(
                "the online proxy's weights must be finite, but no longer are after its last step; "
                "lower its learning rate, and go on from a state saved before"
            )
        if self.scheduler is not None:
            self.scheduler.step()

    def snapshot(self) -> "OnlineProxy":
        """Itself: its weights change in ``update`` only, never while it scores."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """The states of model, optimizer and scheduler, if there is one.

        The names of weights are without the prefixes of DDP and the compiler.
        """
        state = {
            "model": without_compiler(unwrapped(self.model)).state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return (
            state if self.scheduler is None else state | {"scheduler": self.scheduler.state_dict()}
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: if it is no such state, of another model, not finite, or only one of the two
                proxies has a scheduler.
        """
        names = {"model", "optimizer"} | ({"scheduler"} if self.scheduler is not None else set())
        found: object = state_dict
        if not isinstance(found, Mapping) or found.keys() != names:
            kind = sorted(map(shown, found)) if isinstance(found, Mapping) else type(found).__name__
            raise ValueError(
                f"the state of this online proxy must have {', '.join(sorted(names))}, got {kind}; "
                "make the proxy as it was, with or without a scheduler"
            )
        model, whose = without_compiler(unwrapped(self.model)), "the state of an online proxy"
        check_weights(model, state_dict["model"], whose)
        check_optimizer(self.optimizer, state_dict["optimizer"], whose)
        try:
            model.load_state_dict(state_dict["model"])
            self.optimizer.load_state_dict(state_dict["optimizer"])
            if self.scheduler is not None:
                _check_scheduler(self.scheduler, state_dict["scheduler"])
                self.scheduler.load_state_dict(state_dict["scheduler"])
        except Exception as error:  # The states may be anything.
            raise ValueError(
                f"{whose} must be of the same model, optimizer and scheduler, but cannot be loaded "
                f"({type(error).__name__}: {shown(error)}); make the proxy as it was"
            ) from error


def _check_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if the state, which becomes its attributes, is not like its own."""
    own = scheduler.state_dict()
    whole("last_epoch of a scheduler", state["last_epoch"], 0)
    for name, value in state.items():
        numbers = value if isinstance(value, list) else [value]
        mine = own.get(name)
        alike = is_number(value) if is_number(mine) else isinstance(value, type(mine))
        if (
            name == "optimizer"
            or callable(getattr(scheduler, name, None))
            or (mine is not None and not alike)
            or any(is_number(number) and math.isnan(number) for number in numbers)
        ):
            raise ValueError(f"a scheduler has no {shown(name)} = {shown(value)}")


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


def _check_training(optimizer: Optimizer, clip_norm: float | None, scheduler: object) -> None:
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"a proxy's clip_norm must be positive or None, got {clip_norm}")
    if scheduler is None:
        return
    if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
        raise ValueError(
            "a proxy's scheduler must be a torch.optim.lr_scheduler of its optimizer, got "
            f"{type(scheduler).__name__}; make it of the optimizer that the proxy is given"
        )
