"""The sizes of two-tower models, and what embedding one image-text pair costs with them."""

import re
from dataclasses import dataclass, replace

from jest_loader.cost.flops import patch_embedding_flops, transformer_flops


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer.

    Args:
        depth: Blocks.
        width: Width of a token.
        patch_size: Height and width of a patch, pixels.
        image_size: Height and width of an image, pixels.
        mlp_ratio: Hidden width of the blocks' MLPs, over ``width``.
        class_tokens: Tokens beside those of the patches.
        channels: 1 for grey, 3 for colour.

    Raises:
        ValueError: if no patch fits the image.
    """

    depth: int
    width: int
    patch_size: int
    image_size: int
    mlp_ratio: float = 4.0
    class_tokens: int = 0
    channels: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.patch_size <= self.image_size:
            raise ValueError(
                f"a patch must fit the image, got a patch size of {self.patch_size} for images of "
                f"{self.image_size}"
            )

    @property
    def forward_flops(self) -> int:
        """Flops of one image, projection and pooling left out."""
        patches = (self.image_size // self.patch_size) ** 2
        tokens = patches + self.class_tokens
        return patch_embedding_flops(
            patches, self.patch_size, self.channels, self.width
        ) + transformer_flops(tokens, self.width, self.depth, self.mlp_ratio)


@dataclass(frozen=True)
class TextShape:
    """A text transformer.

    Args:
        depth: Blocks.
        width: Width of a token.
        tokens: Per caption, padding included.
        mlp_ratio: Hidden width of the blocks' MLPs, over ``width``.
    """

    depth: int
    width: int
    tokens: int
    mlp_ratio: float = 4.0

    @property
    def forward_flops(self) -> int:
        """Flops of one caption, the projection left out."""
        return transformer_flops(self.tokens, self.width, self.depth, self.mlp_ratio)


@dataclass(frozen=True)
class ModelShape:
    """An image tower, a text tower, and the width of the embeddings that both end in."""

    vision: VisionShape
    text: TextShape
    embed_dim: int

    @property
    def forward_flops(self) -> int:
        """Flops of embedding one pair."""
        return self.vision.forward_flops + self.text.forward_flops

    def at(
        self,
        *,
        patch_size: int | None = None,
        image_size: int | None = None,
        context_length: int | None = None,
    ) -> "ModelShape":
        """The shape at another patch size, image size or length of text; None keeps its own.

        Raises:
            ValueError: if no patch fits the image.
        """
        vision = replace(
            self.vision,
            patch_size=patch_size or self.vision.patch_size,
            image_size=image_size or self.vision.image_size,
        )
        return replace(
            self,
            vision=vision,
            text=replace(self.text, tokens=context_length or self.text.tokens),
        )


def model_shape(name: str) -> ModelShape:
    """The shape of a known model, or of sizes written out.

    Args:
        name: One of ``KNOWN_MODELS``, or the sizes of an image tower and a text tower,
            ``DEPTHxWIDTH@PATCH/IMAGE+DEPTHxWIDTH@TOKENS`` such as ``"12x768@16/224+12x512@77"``;
            the embeddings are then as wide as the text tower.

    Raises:
        ValueError: if it is neither, or the patches do not fit the images.
    """
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    sizes = re.fullmatch(r"(\d+)x(\d+)@(\d+)/(\d+)\+(\d+)x(\d+)@(\d+)", name)
    numbers = [int(size) for size in sizes.groups()] if sizes else []
    if not numbers or min(numbers) < 1:
        raise ValueError(
            f"a model must be sizes like 12x768@16/224+12x512@77 (depth x width @ patch/image + "
            f"depth x width @ tokens) or one of {', '.join(KNOWN_MODELS)}; got {name!r}"
        )
    return ModelShape(VisionShape(*numbers[:4]), TextShape(*numbers[4:]), numbers[5])


def _clip(vision: VisionShape, text_depth: int, text_width: int) -> ModelShape:
    return ModelShape(
        replace(vision, class_tokens=1), TextShape(text_depth, text_width, 77), text_width
    )


def _siglip(vision: VisionShape, tokens: int = 64) -> ModelShape:
    """The text tower is as deep and wide as the image tower."""
    text = TextShape(vision.depth, vision.width, tokens, vision.mlp_ratio)
    return ModelShape(vision, text, vision.width)


_SO400M = 3.7362  # Of SigLIP's "shape-optimised" towers: MLPs of 4304 for a width of 1152.

# Names and sizes as in open_clip; a test compares them with its configurations.
KNOWN_MODELS = {
    "ViT-B-32": _clip(VisionShape(12, 768, 32, 224), 12, 512),
    "ViT-B-16": _clip(VisionShape(12, 768, 16, 224), 12, 512),
    "ViT-L-14": _clip(VisionShape(24, 1024, 14, 224), 12, 768),
    "ViT-L-14-336": _clip(VisionShape(24, 1024, 14, 336), 12, 768),
    "ViT-H-14": _clip(VisionShape(32, 1280, 14, 224), 24, 1024),
    "ViT-g-14": _clip(VisionShape(40, 1408, 14, 224, 4.3637), 24, 1024),
    "ViT-bigG-14": _clip(VisionShape(48, 1664, 14, 224, 4.9231), 32, 1280),
    "ViT-B-16-SigLIP": _siglip(VisionShape(12, 768, 16, 224)),
    "ViT-B-16-SigLIP-256": _siglip(VisionShape(12, 768, 16, 256)),
    "ViT-B-16-SigLIP-384": _siglip(VisionShape(12, 768, 16, 384)),
    "ViT-L-16-SigLIP-256": _siglip(VisionShape(24, 1024, 16, 256)),
    "ViT-SO400M-14-SigLIP": _siglip(VisionShape(27, 1152, 14, 224, _SO400M), tokens=16),
    "ViT-SO400M-14-SigLIP-384": _siglip(VisionShape(27, 1152, 14, 384, _SO400M)),
    "ViT-B-32-SigLIP2-256": _siglip(VisionShape(12, 768, 32, 256)),
    "ViT-B-16-SigLIP2": _siglip(VisionShape(12, 768, 16, 224)),
    "ViT-B-16-SigLIP2-256": _siglip(VisionShape(12, 768, 16, 256)),
    "ViT-L-16-SigLIP2-256": _siglip(VisionShape(24, 1024, 16, 256)),
    "ViT-SO400M-16-SigLIP2-256": _siglip(VisionShape(27, 1152, 16, 256, _SO400M)),
}
