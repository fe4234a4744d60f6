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


class TrainedOn(NamedTuple):
    """What gradients were added for.

    Args:
        loss: [], without gradient; of the examples of all ranks.
        num_examples: Of all ranks.
    """

    loss: Tensor
    num_examples: int


def backward(
    model: nn.Module, batch: Batch, step: int, config: TrainConfig, ranks: Ranks
) -> TrainedOn:
    """Add the gradients of the batch's loss to the model's.

    Over several ranks, and with ``data.micro_batch_size``, all examples of the step are each
    other's negatives, and the gradients are those of the whole batch at once up to rounding. In
    micro-batches everything is embedded twice (GradCache, arXiv 2101.06983): without gradients for
    the loss, which says what each embedding's gradient is, and then with them.

    Args:
        model: The learner, or DDP around it.
        batch: Prepared columns on the model's device, of this rank's examples.
        step: Optimizer steps done, which seeds what is random here.
        config: The run.
        ranks: Who trains on a part of the step's batch.

    Returns:
        The loss, which ``FiniteCheck`` looks at later, and of how many examples it is.
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
        # Even if this rank has but one: all ranks communicate in the same order.
        return _in_micro_batches(model, parts, forward, step, ranks)
    embeddings, groups = forward(model, parts[0]), parts[0].batch.get("group")
    if ranks.size > 1:
        found = global_loss(embeddings, config.loss, ranks, groups)
        _pass_back(embeddings, found, ranks)
        return TrainedOn(found.value, found.num_examples)
    loss = contrastive_loss(embeddings, config.loss, groups)
    loss.backward()  # type: ignore[no-untyped-call]
    return TrainedOn(loss.detach(), len(batch["image"]))


def num_at_low_resolution(config: TrainConfig) -> int:
    """Examples of a sub-batch that are trained on at the resolution of scoring."""
    return round(config.selection.low_resolution_fraction * config.data.batch_size)


class _Part(NamedTuple):
    """Examples that are run at once.

    Args:
        batch: Their images, texts, and ids of equal captions if these are masked.
        num_low: How many, the first ones, are seen at the resolution of scoring.
    """

    batch: Batch
    num_low: int


@dataclass(frozen=True)
class _Forward:
    """Embeds parts as a run's configuration says."""

    config: TrainConfig
    device: torch.device

    def __call__(self, model: nn.Module, part: _Part) -> Embeddings:
        """Embeddings of the part's examples; by itself, since autocast remembers casted weights."""
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
    """The sub-batch in micro-batches, those at a low resolution first."""
    batch = {name: batch[name] for name in ("image", "text", "group") if name in batch}
    num_rows, everyones = len(batch["image"]), num_at_low_resolution(config)
    ends = [everyones * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1)]
    num_low = ends[1] - ends[0]
    if num_low:
        # Any of them, since the order drawn is no order of chance; the loss knows no order.
        generator = torch.Generator().manual_seed(fold(config.seed, step, 1 + ranks.rank))
        order = torch.randperm(num_rows, generator=generator).to(batch["image"].device)
        batch = {name: column[order] for name, column in batch.items()}
    size = config.data.micro_batch_size or num_rows
    for start, part in zip(range(0, num_rows, size), split(batch, size), strict=True):
        yield _Part(part, min(max(num_low - start, 0), len(part["image"])))


def _in_micro_batches(
    model: nn.Module, parts: list[_Part], forward: _Forward, step: int, ranks: Ranks
) -> TrainedOn:
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
            _pass_back(again, found, ranks, rows, with_logit=is_last)
        first = rows.stop
    return TrainedOn(found.value, found.num_examples)


def _pass_back(
    embeddings: Embeddings,
    found: GlobalLoss,
    ranks: Ranks,
    rows: slice = slice(None),
    *,
    with_logit: bool = True,
) -> None:
    """Add the gradients that go through embeddings to the parameters'.

    Args:
        embeddings: With their graph.
        found: The gradients with respect to them.
        ranks: DDP divides the sum over them by their number, though the sum is what is wanted.
        rows: Which of ``found`` they are.
        with_logit: Whether scale and bias get theirs too.
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
    """In DDP gradients stay with their rank, to be averaged together with the next ones."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def augment(image: Tensor, *, seed: int) -> Tensor:
    """``image`` [B, C, H, W] shifted as a whole by up to 1/16 of its size, edges padded with zeros.

    A function of ``seed``, so a resumed run sees the same images.
    """
    largest = image.shape[-1] // 16
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(-largest, largest + 1, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(image, (largest,) * 4)
    height, width = image.shape[-2:]
    return padded[..., largest + down :, largest + right :][..., :height, :width]
