"""One batch's loss and its gradients."""

import torch
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.clip.config import TrainConfig
from jest_loader.clip.data import augment
from jest_loader.clip.model import ClipModel
from jest_loader.clip.selection import num_at_low_resolution
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ops.noise import fold
from jest_loader.protocols import Embeddings


def backward(model: ClipModel, batch: Batch, step: int, config: TrainConfig) -> Tensor:
    """Add the gradients of the batch's loss to the model's.

    Args:
        model: The learner.
        batch: Prepared columns on the model's device.
        step: Optimizer steps done, which seeds what is random here.
        config: The run.

    Returns:
        The loss, [] without gradient.

    Raises:
        FloatingPointError: if the loss is not finite; gradients are then left alone.
    """
    if config.data.augment:
        batch["image"] = augment(batch["image"], seed=fold(config.seed, step))
    device = batch["image"].device
    in_bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
        embeddings = _embed(model, batch, step, config)
    loss = contrastive_loss(embeddings, config.loss)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss must be finite, got {loss.item()} at step {step}; start "
            "again with a lower optimizer.lr, in another folder"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _embed(model: ClipModel, batch: Batch, step: int, config: TrainConfig) -> Embeddings:
    """Of the sub-batch: all at full resolution, or some of it at that of scoring."""
    selection, num_low = config.selection, num_at_low_resolution(config)
    embeddings: Embeddings
    if num_low == 0:
        embeddings = model(batch)
        return embeddings
    # Any of them, since the order drawn is no order of chance; the loss knows no order.
    generator = torch.Generator().manual_seed(fold(config.seed, step, 1))
    order = torch.randperm(len(batch["image"]), generator=generator).to(batch["image"].device)
    shuffled = {name: batch[name][order] for name in ("image", "text")}
    low = (selection.score_patch_size, selection.score_image_size)
    embeddings = model(shuffled, *low, first=num_low)
    return embeddings
