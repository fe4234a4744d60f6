"""One batch's loss and its gradients: over all ranks, and in micro-batches of each."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jest_loader.batch import Batch, split
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.step.generators import GeneratorState
from jest_loader.clip.step.global_loss import GlobalLoss, global_loss
from jest_loader.embeddings import Embeddings
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ops.noise import fold
from jest_loader.ranks.ranks import Ranks
from jest_loader.scoring.groups import group_ids
from jest_loader.scoring.wrappers import unwrapped


def backward(
    model: nn.Module, batch: Batch, step: int, config: TrainConfig, ranks: Ranks
) -> Tensor:
    """Compute the batch's loss and add its gradients to the model's parameters.

    All examples of the step are each other's negatives, also over several ranks and with
    ``data.micro_batch_size``: the gradients equal those of the whole batch up to rounding.
    Micro-batches are embedded twice (GradCache, arXiv 2101.06983): first without gradients, which
    gives the loss and its gradient with respect to each embedding, and then with gradients, which
    takes them to the parameters. By hand, since ``global_loss`` already gives the gradients of the
    embeddings, and running the micro-batches again is all that is left to do.

    Args:
        model: The learner, or DDP around it.
        batch: This rank's examples: prepared columns on the model's device.
        step: Optimizer steps done; augmentation and the choice of resolutions are seeded by it.
        config: The run.
        ranks: The processes that share the step's batch.

    Returns:
        The loss over the examples of all ranks, [], without gradient.
    """
    if config.data.augment:
        batch["image"] = augment(batch["image"], seed=fold(config.seed, step))
    if config.mask_equal_captions:
        groups = group_ids(batch, "caption")
        assert groups is not None
        batch["group"] = groups.to(batch["image"].device)
    parts = list(_parts(batch, step, config, ranks))
    forward = _Forward(config, batch["image"].device)
    micro = config.data.micro_batch_size
    if micro is not None and micro < config.data.batch_size // ranks.size:
        # Also where this rank has one micro-batch only: all ranks communicate in the same order.
        return _in_micro_batches(model, parts, forward, ranks)
    embeddings, groups = forward(model, parts[0]), parts[0].batch.get("group")
    if ranks.size > 1:
        found = global_loss(embeddings, config.loss, ranks, groups)
        _backpropagate(embeddings, found, ranks)
        return found.value
    loss = contrastive_loss(embeddings, config.loss, groups)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def num_at_low_resolution(config: TrainConfig) -> int:
    """Examples of a sub-batch that are trained on at the resolution of scoring."""
    return round(config.selection.low_resolution_fraction * config.data.batch_size)


class _Part(NamedTuple):
    """A micro-batch.

    Args:
        batch: Images, texts, and ids of equal captions if these are masked.
        num_low: How many of the first examples are embedded at the resolution of scoring.
    """

    batch: Batch
    num_low: int


@dataclass(frozen=True)
class _Forward:
    """Embeds micro-batches with the precision and the resolutions of a run."""

    config: TrainConfig
    device: torch.device

    def __call__(self, model: nn.Module, part: _Part) -> Embeddings:
        """Embeddings of the part's examples.

        Each call enters autocast anew, which forgets the weights that it has cast.
        """
        config, device, (batch, num_low) = self.config, self.device, part
        in_bf16 = config.precision == "bf16" or (
            config.precision == "auto" and device.type == "cuda"
        )
        low = (config.selection.score_patch_size, config.selection.score_image_size)
        first = None if num_low == len(batch["image"]) else num_low
        embeddings: Embeddings
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            embeddings = model(batch) if num_low == 0 else model(batch, *low, first=first)
        return embeddings


def _parts(batch: Batch, step: int, config: TrainConfig, ranks: Ranks) -> Iterator[_Part]:
    """The sub-batch in micro-batches, the examples at a low resolution first."""
    batch = {name: batch[name] for name in ("image", "text", "group") if name in batch}
    num_rows, num_low_of_all = len(batch["image"]), num_at_low_resolution(config)
    ends = [num_low_of_all * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1)]
    num_low = ends[1] - ends[0]
    if num_low:
        # Shuffled, since a selector's first draws differ from its last. The loss knows no order.
        generator = torch.Generator().manual_seed(fold(config.seed, step, 1 + ranks.rank))
        order = torch.randperm(num_rows, generator=generator).to(batch["image"].device)
        batch = {name: column[order] for name, column in batch.items()}
    size = config.data.micro_batch_size or num_rows
    for start, part in zip(range(0, num_rows, size), split(batch, size), strict=True):
        yield _Part(part, min(max(num_low - start, 0), len(part["image"])))


def _in_micro_batches(
    model: nn.Module, parts: list[_Part], forward: _Forward, ranks: Ranks
) -> Tensor:
    inner, states, cached = unwrapped(model), [], []
    with torch.no_grad():
        for part in parts:
            states.append(GeneratorState.now(forward.device))
            cached.append(forward(inner, part))
    embeddings = Embeddings(
        torch.cat([each.image for each in cached]),
        torch.cat([each.text for each in cached]),
        cached[0].logit_scale,
        cached[0].logit_bias,
    )
    groups = None
    if forward.config.mask_equal_captions:
        groups = torch.cat([part.batch["group"] for part in parts])
    found = global_loss(embeddings, forward.config.loss, ranks, groups)
    first = 0
    for part, state in zip(parts, states, strict=True):
        state.restore(forward.device)  # The same dropout as before.
        is_last = part is parts[-1]
        with nullcontext() if is_last else _no_sync(model):
            again = forward(model, part)
            rows = slice(first, first + len(again.image))
            _backpropagate(again, found, ranks, rows, with_logit=is_last)
        first = rows.stop
    return found.value


def _backpropagate(
    embeddings: Embeddings,
    found: GlobalLoss,
    ranks: Ranks,
    rows: slice = slice(None),
    *,
    with_logit: bool = True,
) -> None:
    """Add the gradients of the parameters, from the loss's gradients of the embeddings.

    Args:
        embeddings: With their graph.
        found: The loss's gradients with respect to this rank's embeddings.
        ranks: DDP takes the mean over them where the sum is wanted, so gradients are multiplied by
            their number.
        rows: The rows of ``found`` that belong to these embeddings.
        with_logit: Whether the logit scale and bias receive their gradients too.
    """
    gradients = [(embeddings.image, found.image[rows]), (embeddings.text, found.text[rows])]
    if with_logit:
        for value, gradient in (
            (embeddings.logit_scale, found.logit_scale),
            (embeddings.logit_bias, found.logit_bias),
        ):
            if isinstance(value, Tensor):
                gradients.append((value, gradient.reshape(value.shape)))
    trained = [(value, gradient) for value, gradient in gradients if value.requires_grad]
    torch.autograd.backward(
        [value for value, _ in trained],
        [(ranks.size * gradient).to(value.dtype) for value, gradient in trained],
    )


def _no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """DDP averages gradients in the last backward pass of a step only."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def augment(image: Tensor, *, seed: int) -> Tensor:
    """``image`` [B, C, H, W], all shifted alike by up to 1/16 of their size and padded with zeros.

    The shift is a function of ``seed``, so a resumed run sees the same images.
    """
    largest = image.shape[-1] // 16
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(-largest, largest + 1, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(image, (largest,) * 4)
    height, width = image.shape[-2:]
    return padded[..., largest + down :, largest + right :][..., :height, :width]
