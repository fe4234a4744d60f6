"""The model as the trainer sees it, with towers of any kind."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.embeddings import Embeddings
from jest_loader.seen import SeenRows


class ClipModel(nn.Module):
    """An image tower and a text tower, with SigLIP's trained scale and bias.

    A subclass makes the towers, and then the logit parameters with ``_add_logit_parameters``.

    Args:
        config: What it takes, and its width.
    """

    image_tower: nn.Module
    """``image_tower(image, patch_size, image_size)``: floating [B, embed_dim] of uint8 [B,
    channels, height, width]."""

    text_tower: nn.Module
    """``text_tower(text)``: floating [B, embed_dim] of int64 [B, context_length]."""

    log_scale: nn.Parameter
    """[1], as FSDP2 shards no parameter without a dimension; so is the bias."""

    logit_bias: nn.Parameter | None

    seen: SeenRows | None = None
    """Which pictures it was trained on, of a model of a checkpoint; None where it is not known."""

    trained_batch_size: int | None = None
    """What batch size its bias is of, of a model of a checkpoint; None where it is not known."""

    def __init__(self, config: ModelInputs) -> None:
        super().__init__()
        self.config = config

    def embed_image(
        self, image: Tensor, patch_size: int | None = None, image_size: int | None = None
    ) -> Tensor:
        """Unit-norm fp32 [B, embed_dim] of uint8 [B, channels, height, width] images.

        Args:
            image: The images.
            patch_size: Pixels of a patch; None takes the configuration's.
            image_size: The size that images are brought to first; None leaves them as they are.

        Raises:
            ValueError: if patches do not divide the images.
        """
        return normalize(self.image_tower(image, patch_size, image_size).float(), dim=1)

    def embed_text(self, text: Tensor) -> Tensor:
        """Unit-norm fp32 [B, embed_dim] of int64 [B, context_length] token ids."""
        return normalize(self.text_tower(text).float(), dim=1)

    def embed(
        self,
        batch: dict[str, Any],
        patch_size: int | None = None,
        image_size: int | None = None,
        *,
        first: int | None = None,
    ) -> Embeddings:
        """Embeddings of the batch's columns ``image`` and ``text``.

        Args:
            batch: The pairs.
            patch_size: Pixels of a patch; None takes the configuration's.
            image_size: The size that images are brought to first; None leaves them as they are.
            first: Apply the two sizes to the first ``first`` images only and embed the others at
                full resolution, as in training at mixed resolutions; None applies them to all.

        Raises:
            ValueError: if patches do not divide the images.
        """
        parts = [batch["image"]] if first is None else batch["image"].tensor_split([first])
        image = [self.embed_image(parts[0], patch_size, image_size)]
        image += [self.embed_image(part) for part in parts[1:]]
        return Embeddings(
            image[0] if first is None else torch.cat(image),
            self.embed_text(batch["text"]),
            self.log_scale.exp()[0],
            None if self.logit_bias is None else self.logit_bias[0],
        )

    def forward(
        self,
        batch: dict[str, Any],
        patch_size: int | None = None,
        image_size: int | None = None,
        *,
        first: int | None = None,
    ) -> Embeddings:
        """The same as ``embed``, for wrappers such as DDP that need ``forward``."""
        return self.embed(batch, patch_size, image_size, first=first)

    def forward_flops(self, patch_size: int | None = None, image_size: int | None = None) -> int:
        """Flops of embedding one image-text pair, by the cost model; sizes as for ``embed``."""
        return self.config.forward_flops(patch_size, image_size)

    def logit_parameters(self) -> list[nn.Parameter]:
        """The logit scale and bias, which have no weight decay and a higher learning rate."""
        return [p for p in (self.log_scale, self.logit_bias) if p is not None]

    def tower_parameters(self) -> list[nn.Parameter]:
        """The parameters of both towers; only matrices, of two dimensions and more, may decay."""
        return [p for part in (self.image_tower, self.text_tower) for p in part.parameters()]

    def compile_towers(self) -> None:
        """Compile both towers, each to one graph, for training and for scoring.

        Names in ``state_dict`` stay the same. A copy of the model is not compiled.
        """
        for tower in (self.image_tower, self.text_tower):
            tower.compile(fullgraph=True)

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing: blocks keep their inputs and run again backward.

        Gradients stay the same, and a step takes less memory and more time.
        """
        raise NotImplementedError  # Each kind of model has blocks of its own.

    def _add_logit_parameters(self, log_scale: Tensor, logit_bias: Tensor | None) -> None:
        self.log_scale = nn.Parameter(log_scale.reshape(1))
        self.logit_bias = None if logit_bias is None else nn.Parameter(logit_bias.reshape(1))
