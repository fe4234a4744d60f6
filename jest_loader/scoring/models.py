"""Embedders that run a model: the learner itself, an online proxy, or a frozen reference."""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Loss
from jest_loader.scoring.embedding_checks import check_loss, warn_if_coarse
from jest_loader.scoring.groups import check_column, group_ids
from jest_loader.scoring.runner import ModelRunner
from jest_loader.scoring.wrappers import device_of, prepare_method, unwrapped, without_compiler

EmbedFunction = Callable[[nn.Module, Batch], Embeddings]
"""Runs a model on a batch, whose tensors are on the model's device."""


class LiveLearner:
    """Embeds with a model as it is now: in ``eval`` mode, without gradients, outside autocast.

    The modes of all submodules are put back afterwards. Where ``embed`` or ``prepare`` raises
    ``SkipRowsError``, it is called again with the other rows, and the bad ones have no score.

    Args:
        model: The model being trained, also in DDP, FSDP or compiled. ``embed`` is given the module
            within DDP, and everything else as it is here.
        embed: ``embed(model, batch) -> Embeddings``; None calls ``model.embed(batch)``, which is
            not compiled where only the module is.
        prepare: ``prepare(batch) -> batch``, called on each micro-batch before ``embed``, its
            tensors on the model's device: to decode or shrink images, say.
        micro_batch_size: Candidates embedded at once; None embeds the whole super-batch at once.
        max_memory_bytes: Instead of ``micro_batch_size``, on a CUDA device: what embedding a
            micro-batch may take beside the weights. Measured on the first super-batch.

    Raises:
        ValueError: if the model has no ``embed`` and none is given, it is wrapped in FSDP1 and no
            ``embed`` is given, the sizes are not positive or do not go together, or an argument is
            of another type.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        prepare: Callable[[Batch], Batch] | None = None,
        micro_batch_size: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        given: object = model
        if not isinstance(given, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {model!r}")
        if embed is not None and not callable(embed):
            raise ValueError(f"embed must be a function(model, batch) or None, got {embed!r}")
        self.model = model
        if embed is None:
            prepare_method(unwrapped(model), "embed")
        self._runner = ModelRunner(
            model,
            _call_embed if embed is None else embed,
            _checked,
            prepare=prepare,
            micro_batch_size=micro_batch_size,
            max_memory_bytes=max_memory_bytes,
        )

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch, on the model's device, in fp32 (fp64 of a model in fp64).

        Raises:
            ValueError: if the batch lacks a column that the model reads, or ``embed`` returns
                anything but Embeddings with a row per example.
            SkipRowsError: if no row can be used.
        """
        found = self._runner.run(batch)
        first = found.parts[0]
        if first.image.dtype.itemsize < torch.float32.itemsize:
            # Scores will see the fp32 that we make of them, and could not tell.
            warn_if_coarse("model", first)
        return Embeddings(
            found.column(lambda part: part.image),
            found.column(lambda part: part.text),
            first.logit_scale,
            first.logit_bias,
        )

    def snapshot(self) -> "LiveLearner":
        """The same with a copy of the weights as they are now, good until the next call.

        Raises:
            ValueError: if the model is sharded by FSDP.
        """
        learner = copy(self)
        learner._runner = self._runner.snapshot()
        return learner


class FrozenReference(LiveLearner):
    """Embeds with a reference model, whose parameters it freezes.

    Args:
        model: A model trained on well-curated data.
        embed: As for ``LiveLearner``.
        prepare: As for ``LiveLearner``.
        micro_batch_size: As for ``LiveLearner``.
        max_memory_bytes: As for ``LiveLearner``.

    Raises:
        ValueError: as ``LiveLearner``.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        prepare: Callable[[Batch], Batch] | None = None,
        micro_batch_size: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        super().__init__(
            model,
            embed,
            prepare=prepare,
            micro_batch_size=micro_batch_size,
            max_memory_bytes=max_memory_bytes,
        )
        model.requires_grad_(requires_grad=False).eval()

    def snapshot(self) -> "FrozenReference":
        """Itself: its weights stay as they are."""
        return self


class OnlineProxy(LiveLearner):
    """Embeds with a small model in the learner's place, which trains on each sub-batch.

    The learner is then never run on candidates. The weights are not part of the dataset's state:
    save ``state_dict()`` beside it.

    Args:
        model: The small model; its ``embed`` must be differentiable. In DDP it is trained through
            ``forward``, which must then return what ``embed`` does.
        optimizer: Over the model's parameters.
        embed: As for ``LiveLearner``; while training it is given ``model`` itself.
        loss: The contrastive loss that it is trained with.
        equal_by: A column of the sub-batch whose equal values are not each other's negatives in
            that loss, as for ``Learnability``; None for none.
        prepare: As for ``LiveLearner``; also in training.
        micro_batch_size: As for ``LiveLearner``, when scoring.
        max_memory_bytes: As for ``LiveLearner``, when scoring.

    Raises:
        ValueError: as ``LiveLearner``, or if ``loss`` is not known, ``equal_by`` names no column or
            ``optimizer`` trains none of the model's weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        embed: EmbedFunction | None = None,
        *,
        loss: Loss = "sigmoid",
        equal_by: str | None = None,
        prepare: Callable[[Batch], Batch] | None = None,
        micro_batch_size: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        super().__init__(
            model,
            embed,
            prepare=prepare,
            micro_batch_size=micro_batch_size,
            max_memory_bytes=max_memory_bytes,
        )
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


def _call_embed(model: nn.Module, batch: Batch) -> Embeddings:
    # DDP has no embed: while it trains, gradients are averaged only behind its forward.
    embeddings: Embeddings = getattr(model, "embed", model)(batch)
    return embeddings


def _checked(embeddings: object, num_rows: int) -> Embeddings:
    if not isinstance(embeddings, Embeddings):
        raise ValueError(
            "embed must return Embeddings(image, text, scale, bias), "
            f"got {type(embeddings).__name__}"
        )
    if len(embeddings.image) != num_rows:
        raise ValueError(
            "embed must return one row per example of the batch, "
            f"got {len(embeddings.image)} for {num_rows}"
        )
    return embeddings
