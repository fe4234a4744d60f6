"""Embedders that run a model: the learner itself, an online proxy, or a frozen reference."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jest_loader.batch import Batch, num_examples, split, take, to_device
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import BadSamplesError, Embeddings, Loss
from jest_loader.scores import check_loss

EmbedFunction = Callable[[nn.Module, Batch], Embeddings]
"""Runs a model on a batch, whose tensors are on the model's device."""


class LiveLearner:
    """Embeds with a model as it is now: in ``eval`` mode, without gradients, outside autocast.

    The modes of all submodules are put back afterwards. Where ``embed`` raises
    ``BadSamplesError``, it is called again with the other rows, and the bad ones have no score.

    Args:
        model: The model being trained.
        embed: ``embed(model, batch) -> Embeddings``; None calls ``model.embed(batch)``.
        micro_batch_size: Candidates embedded at once; None embeds the whole super-batch at once.

    Raises:
        ValueError: if the model has no ``embed`` and none is given, or ``micro_batch_size`` is not
            positive.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        micro_batch_size: int | None = None,
    ) -> None:
        if embed is None and not callable(getattr(model, "embed", None)):
            raise ValueError(
                f"{type(model).__name__} has no embed(batch) method; pass embed=function, where "
                "function(model, batch) returns Embeddings(image, text, scale, bias)"
            )
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1 or None, got {micro_batch_size}")
        self.model = model
        self._embed = embed if embed is not None else _call_embed
        self._micro_batch_size = micro_batch_size

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch, on the model's device."""
        device = _device(self.model)
        parts = [batch] if self._micro_batch_size is None else split(batch, self._micro_batch_size)
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _eval_mode(self.model):
            found: list[Embeddings] = []
            good: list[int] = []
            reasons: dict[int, str] = {}
            start = 0
            for part in parts:
                size = num_examples(part)
                embedded, bad = self._embed_usable(to_device(part, device))
                good += [start + row for row in range(size) if row not in bad]
                reasons |= {start + row: reason for row, reason in bad.items()}
                found += [embedded] if embedded is not None else []
                start += size
        if not reasons:
            return _joined(found)
        error = BadSamplesError(reasons)
        if not found:
            raise error
        logging.getLogger(__name__).warning("candidates without a score: %s", error)
        return _spread(_joined(found), good, start)

    def _embed_usable(self, batch: Batch) -> tuple[Embeddings | None, dict[int, str]]:
        """Embeddings of the rows that the function can use, and what is wrong with the others."""
        try:
            return _checked(self._embed(self.model, batch)), {}
        except BadSamplesError as error:
            good = [row for row in range(num_examples(batch)) if row not in error.reasons]
            if not good:
                return None, error.reasons
            usable = take(batch, torch.tensor(good))
            return _checked(self._embed(self.model, usable)), error.reasons


class FrozenReference(LiveLearner):
    """Embeds with a reference model, whose parameters it freezes.

    Args:
        model: A model trained on well-curated data.
        embed: As for ``LiveLearner``.
        micro_batch_size: As for ``LiveLearner``.

    Raises:
        ValueError: as ``LiveLearner``.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, embed, micro_batch_size=micro_batch_size)
        model.requires_grad_(requires_grad=False).eval()


class OnlineProxy(LiveLearner):
    """Embeds with a small model in the learner's place, which trains on each sub-batch.

    The learner is then never run on candidates. The weights are not part of the dataset's state:
    save ``model`` and ``optimizer`` beside it.

    Args:
        model: The small model; its ``embed`` must be differentiable.
        optimizer: Over the model's parameters.
        embed: As for ``LiveLearner``.
        loss: The contrastive loss that it is trained with.
        micro_batch_size: As for ``LiveLearner``, when scoring.

    Raises:
        ValueError: as ``LiveLearner``, or if ``loss`` is not known.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        embed: EmbedFunction | None = None,
        *,
        loss: Loss = "sigmoid",
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, embed, micro_batch_size=micro_batch_size)
        check_loss(loss)
        self.optimizer = optimizer
        self.loss = loss

    def update(self, sub_batch: Batch) -> None:
        """One optimizer step on the sub-batch's contrastive loss.

        Raises:
            ValueError: if the loss is not finite; the weights are left as they were.
        """
        device = _device(self.model)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            embeddings = _checked(self._embed(self.model, to_device(sub_batch, device)))
            loss = contrastive_loss(embeddings, self.loss)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the online proxy's loss must be finite, got {loss.item()}; "
                "lower its learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _call_embed(model: nn.Module, batch: Batch) -> Embeddings:
    embeddings: Embeddings = model.embed(batch)  # type: ignore[operator]
    return embeddings


def _checked(embeddings: object) -> Embeddings:
    if not isinstance(embeddings, Embeddings):
        raise ValueError(
            "embed must return Embeddings(image, text, scale, bias), "
            f"got {type(embeddings).__name__}"
        )
    return embeddings


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _spread(embeddings: Embeddings, rows: list[int], size: int) -> Embeddings:
    """The embeddings as ``rows`` of ``size``, the others NaN."""
    index = torch.tensor(rows, device=embeddings.image.device)
    image, text = (
        side.new_full((size, side.shape[1]), torch.nan).index_copy(0, index, side)
        for side in (embeddings.image, embeddings.text)
    )
    return replace(embeddings, image=image, text=text)


def _joined(parts: list[Embeddings]) -> Embeddings:
    def cat(tensors: list[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    return Embeddings(
        cat([part.image for part in parts]),
        cat([part.text for part in parts]),
        parts[0].scale,
        parts[0].bias,
    )
