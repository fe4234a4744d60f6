"""Sizes of the bundled model."""

from dataclasses import dataclass, fields
from typing import Literal

CONV_GROUPS = 8
"""Groups of channels that the convolutional tower normalizes over."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the two towers.

    Args:
        image_size: Height and width of an image, pixels.
        channels: 1 for grey, 3 for colour.
        image_tower: vit, a FlexiViT; or conv, convolutions, which need less data and no GPU.
        patch_size: Height and width of a patch, pixels; divides image_size. For vit only.
        vision_width: Width of the image tower; of its last stage for conv.
        vision_depth: Blocks of the image tower; for conv, stages that each halve the image.
        text_width: Width of the text tower.
        text_depth: Blocks of the text tower; 0 averages word embeddings.
        heads: Attention heads of both towers.
        embed_dim: Width of the joint embedding.
        vocab_size: Token ids.
        context_length: Tokens per caption.
    """

    image_size: int = 64
    channels: int = 3
    image_tower: Literal["vit", "conv"] = "vit"
    patch_size: int = 8
    vision_width: int = 128
    vision_depth: int = 4
    text_width: int = 128
    text_depth: int = 1
    heads: int = 4
    embed_dim: int = 128
    vocab_size: int = 8192
    context_length: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            smallest = 0 if field.name.endswith("_depth") else 1
            value = getattr(self, field.name)
            if field.name != "image_tower" and value < smallest:
                raise ValueError(f"{field.name} must be at least {smallest}, got {value}")
        if self.image_tower == "conv":
            self._check_stages()
        else:
            self._check_patches()
        self._check_heads("text_width", self.text_width)

    def _check_patches(self) -> None:
        if self.image_size % self.patch_size != 0:
            raise ValueError(
                f"patch_size must divide image_size, got {self.patch_size} and {self.image_size}"
            )
        self._check_heads("vision_width", self.vision_width)

    def _check_heads(self, name: str, width: int) -> None:
        if width % self.heads != 0:
            raise ValueError(f"heads must divide {name}, got {self.heads} and {width}")

    def _check_stages(self) -> None:
        if self.vision_depth < 1:
            raise ValueError("vision_depth must be at least 1 for image_tower conv, got 0")
        if self.vision_width % smallest_width(self.vision_depth) != 0:
            raise ValueError(
                f"vision_width must be a multiple of {smallest_width(self.vision_depth)} for "
                f"{self.vision_depth} stages of image_tower conv, got {self.vision_width}"
            )


def smallest_width(depth: int) -> int:
    """The least channels of the last of ``depth`` stages: the first has one in each group."""
    return CONV_GROUPS << (depth - 1)
