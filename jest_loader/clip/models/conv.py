"""A small convolutional image tower, for little data and for CPUs, where a ViT learns slowly."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize

from jest_loader.clip.config.model import CONV_GROUPS
from jest_loader.clip.models.blocks import run_blocks
from jest_loader.clip.models.flexi import as_pixels


class ConvTower(nn.Module):
    """Convolutional stages that each halve the image, and global average pooling.

    Weights are standardized and activations are normalized in groups of channels (arXiv
    1903.10520), so no example depends on others: gradients over ranks and micro-batches equal those
    of one batch, and sizes of images can be mixed.

    Args:
        channels: Channels of an image.
        width: Channels of the last stage; each stage has twice the channels of the one before. A
            multiple of ``smallest_width(depth)``.
        depth: Stages, at least 1.
        embed_dim: Width of the joint embedding.
    """

    def __init__(self, channels: int, width: int, depth: int, embed_dim: int) -> None:
        super().__init__()
        self.checkpointing = False
        self.stages = nn.ModuleList(
            _stage(before, after, deepens=number > 0)
            for number, (before, after) in enumerate(pairwise(_widths(channels, width, depth)))
        )
        self.project = nn.Linear(width, embed_dim, bias=False)

    def forward(
        self, image: Tensor, patch_size: int | None = None, image_size: int | None = None
    ) -> Tensor:
        """Floating [B, embed_dim] of uint8 [B, channels, height, width].

        Args:
            image: The images.
            patch_size: None: there are no patches.
            image_size: The size that images are brought to first; None leaves them as they are.

        Raises:
            ValueError: if a patch size is asked for.
        """
        _refuse_patches(patch_size)
        pixels = as_pixels(image, image_size)
        seen = run_blocks(self.stages, pixels, checkpointing=self.checkpointing)
        projected: Tensor = self.project(seen.mean(dim=(2, 3)))
        return projected


def conv_flops(
    channels: int, width: int, depth: int, image_size: int, patch_size: int | None = None
) -> int:
    """Flops of one image, the projection left out.

    Raises:
        ValueError: if a patch size is asked for.
    """
    _refuse_patches(patch_size)
    flops, side = 0, image_size
    for number, (before, after) in enumerate(pairwise(_widths(channels, width, depth))):
        side = (side + 1) // 2
        flops += 18 * side**2 * after * (before + after * (number > 0))
    return flops


def _widths(channels: int, width: int, depth: int) -> list[int]:
    return [channels, *(width >> (depth - 1 - number) for number in range(depth))]


def _stage(before: int, after: int, *, deepens: bool) -> nn.Sequential:
    """A convolution that halves the image, and one more where ``deepens``."""
    convolutions = [_StandardizedConv(before, after, stride=2)]
    if deepens:
        convolutions.append(_StandardizedConv(after, after, stride=1))
    return nn.Sequential(
        *(
            layer
            for convolution in convolutions
            for layer in (convolution, nn.GroupNorm(CONV_GROUPS, after), nn.GELU())
        )
    )


class _StandardizedConv(nn.Conv2d):
    """A 3 x 3 convolution whose kernels have no mean and unit norm."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__(before, after, 3, stride, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class calls it so.
        kernels = self.weight.flatten(1)
        kernels = normalize(kernels - kernels.mean(dim=1, keepdim=True), dim=1)
        return conv2d(input, kernels.view_as(self.weight), None, self.stride, self.padding)


def _refuse_patches(patch_size: int | None) -> None:
    if patch_size is not None:
        raise ValueError(
            f"a convolutional image tower has no patches, got a patch size of {patch_size}; set "
            "the image size"
        )
