"""The bundled two-tower model: a ViT or convolutions for images, a transformer for text."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, scaled_dot_product_attention

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.blocks import run_blocks
from jest_loader.clip.models.conv import ConvTower, conv_flops
from jest_loader.clip.models.flexi import as_pixels, resize_kernel, resize_positions
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.tokenizer import PADDING, HashTokenizer
from jest_loader.cost.shapes import ModelShape, TextShape, VisionShape
from jest_loader.protocols import Loss


@dataclass(frozen=True)
class BundledArchitecture:
    """What builds the bundled model, and what it takes.

    Args:
        sizes: Sizes of the two towers.
    """

    sizes: ModelConfig

    @property
    def image_size(self) -> int:
        """Height and width of an image, pixels."""
        return self.sizes.image_size

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.sizes.channels

    @property
    def context_length(self) -> int:
        """Tokens per caption."""
        return self.sizes.context_length

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding."""
        return self.sizes.embed_dim

    @property
    def shape(self) -> ModelShape:
        """The sizes that the cost model takes."""
        vision = VisionShape(
            self.sizes.vision_depth,
            self.sizes.vision_width,
            self.sizes.patch_size,
            self.image_size,
            channels=self.channels,
        )
        text = TextShape(self.sizes.text_depth, self.sizes.text_width, self.context_length)
        return ModelShape(vision, text, self.embed_dim)

    @property
    def preprocessing(self) -> str:
        """The size that images are cut and resized to."""
        return f"{self.channels} x {self.image_size} x {self.image_size}"

    @property
    def tokenization(self) -> str:
        """The tokenizer and its ids."""
        return f"HashTokenizer of {self.sizes.vocab_size} ids"

    def tokenizer(self) -> HashTokenizer:
        """Makes the token ids that the text tower takes."""
        return HashTokenizer(self.sizes.vocab_size, self.context_length)

    def transform(self) -> None:
        """Images are cut and resized as ``DecodeImages`` does."""

    def forward_flops(self, patch_size: int | None = None, image_size: int | None = None) -> int:
        """Flops of embedding one image-text pair, by the cost model; None takes its own sizes."""
        if self.sizes.image_tower == "conv":
            size = image_size or self.image_size
            sizes = (self.channels, self.sizes.vision_width, self.sizes.vision_depth, size)
            return conv_flops(*sizes, patch_size) + self.shape.text.forward_flops
        return self.shape.at(patch_size=patch_size, image_size=image_size).forward_flops

    def build(
        self, loss: Loss, *, logit_scale: float = 10.0, logit_bias: float = -10.0
    ) -> "TwoTower":
        """A model with random weights of torch's generator; the softmax loss has no bias."""
        return TwoTower(
            self.sizes,
            logit_scale=logit_scale,
            logit_bias=logit_bias if loss == "sigmoid" else None,
        )

    def empty(self, loss: Loss) -> "TwoTower":
        """A model for ``loss`` whose weights are still to be loaded."""
        return self.build(loss)


class TwoTower(ClipModel):
    """The bundled model.

    The image tower runs on images of any size; a FlexiViT at any patch size too, if that gives
    whole patches.

    Args:
        config: The sizes.
        logit_scale: Initial inverse temperature.
        logit_bias: Initial logit bias; None makes a softmax model, which has none.
    """

    config: BundledArchitecture
    image_tower: "_ImageTower | ConvTower"
    text_tower: "_TextTower"

    def __init__(
        self, config: ModelConfig, *, logit_scale: float = 10.0, logit_bias: float | None = -10.0
    ) -> None:
        super().__init__(BundledArchitecture(config))
        if config.image_tower == "conv":
            self.image_tower = ConvTower(
                config.channels, config.vision_width, config.vision_depth, config.embed_dim
            )
        else:
            self.image_tower = _ImageTower(config)
        self.text_tower = _TextTower(config)
        self._add_logit_parameters(
            torch.tensor(math.log(logit_scale)),
            None if logit_bias is None else torch.tensor(logit_bias),
        )

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of blocks for the backward pass, which runs the blocks once more."""
        self.image_tower.checkpointing = self.text_tower.checkpointing = True


class _ImageTower(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.checkpointing = False
        width, num_patches = config.vision_width, (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(config.channels, width, config.patch_size, config.patch_size)
        self.positions = nn.Parameter(torch.randn(num_patches, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.vision_depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.embed_dim, bias=False)

    def forward(
        self, image: Tensor, patch_size: int | None = None, image_size: int | None = None
    ) -> Tensor:
        pixels = as_pixels(image, image_size)
        size = self.patches.kernel_size[0] if patch_size is None else patch_size
        if size < 1 or any(side % size != 0 for side in pixels.shape[-2:]):
            raise ValueError(
                f"patch_size must divide the images, got {size} and {tuple(pixels.shape[-2:])}"
            )
        kernel = resize_kernel(self.patches.weight, size)
        patches = conv2d(pixels, kernel, self.patches.bias, stride=size)
        tokens = patches.flatten(2).mT + resize_positions(self.positions, *patches.shape[-2:])
        tokens = run_blocks(self.blocks, tokens, None, checkpointing=self.checkpointing)
        projected: Tensor = self.project(self.norm(tokens).mean(dim=1))
        return projected


class _TextTower(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.checkpointing = False
        width = config.text_width
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.randn(config.context_length, width) * 0.02)
        nn.init.normal_(self.words.weight, std=0.02)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.text_depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.embed_dim, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        real = text != PADDING
        real = real | ~real.any(dim=1, keepdim=True)  # An empty caption attends to its padding.
        tokens = self.words(text) + self.positions
        mask = real[:, None, None, :]
        tokens = run_blocks(self.blocks, tokens, mask, checkpointing=self.checkpointing)
        weights = real[..., None].to(tokens.dtype)
        pooled = (self.norm(tokens) * weights).sum(dim=1) / weights.sum(dim=1)
        projected: Tensor = self.project(pooled)
        return projected


class _Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, width = tokens.shape
        qkv = self.qkv(self.norm_attention(tokens)).view(
            batch, length, 3, self.heads, width // self.heads
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + self.merge(attended.transpose(1, 2).reshape(batch, length, width))
        updated: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return updated
