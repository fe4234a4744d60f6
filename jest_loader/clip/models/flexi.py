"""FlexiViT (arXiv 2212.08013): one patch kernel and one grid of positions at several sizes.

Resizing treats rows and columns alike, so both are resized by a matrix from the left and its
transpose from the right. The pseudo-inverse of this product is the product of the pseudo-inverses,
so a matrix has the side of a patch, [32, 16], and not the number of its pixels, [1024, 256].
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize_kernel(kernel: Tensor, patch_size: int) -> Tensor:
    """The kernel for patches of another size (PI-resize, section 3.4 of FlexiViT).

    On larger patches, the new kernel applied to a resized patch equals ``kernel`` applied to the
    patch. On smaller ones it comes as near as it can, in the mean over all patches.

    Args:
        kernel: Floating [width, channels, p, p]; gradients reach it.
        patch_size: The new p.

    Returns:
        [width, channels, patch_size, patch_size] in fp32 or better, also within autocast; the
        kernel itself if it has that size.
    """
    if kernel.shape[-1] == patch_size:
        return kernel
    side = ("pseudo-inverse", patch_size)
    return _resized(kernel, side, side)


def resize_patches(image: Tensor, patch_size: int, new_size: int) -> Tensor:
    """An image with each patch resized, by PI-resize's matrix.

    A kernel of ``new_size`` applied to the result equals ``resize_kernel(kernel, patch_size)``
    applied to the image. For models whose kernel cannot be replaced.

    Args:
        image: Floating [B, channels, rows * patch_size, columns * patch_size].
        patch_size: Pixels of a patch.
        new_size: Pixels of a patch of the result.

    Returns:
        [B, channels, rows * new_size, columns * new_size] in fp32 or better, also within autocast;
        the image itself if its patches have that size.
    """
    if patch_size == new_size:
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    matrix: Tensor = _matrix("pseudo-inverse", patch_size, new_size, dtype, image.device)
    with _in_fp32(image.device):
        narrow = _times_each(image.to(dtype), matrix)
        return _times_each(narrow.mT, matrix).mT


def _in_fp32(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast; autocast does not know the device of meta tensors."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _times_each(image: Tensor, matrix: Tensor) -> Tensor:
    """Each row cut into pieces of ``len(matrix)``, and each piece multiplied by the matrix."""
    *others, length = image.shape
    return (image.reshape(*others, length // len(matrix), len(matrix)) @ matrix).flatten(-2)


def resize_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings of a square grid, interpolated to another grid.

    Args:
        positions: Floating [g * g, width], row by row; gradients reach it.
        rows: Rows of the new grid.
        columns: Columns of the new grid.

    Returns:
        [rows * columns, width] in fp32 or better, also within autocast; the positions themselves if
        the grid is the same.
    """
    grid = round(len(positions) ** 0.5)
    if (rows, columns) == (grid, grid):
        return positions
    image = positions.T.view(-1, grid, grid)
    return _resized(image, ("resize", rows), ("resize", columns)).flatten(1).T


def as_pixels(image: Tensor, image_size: int | None) -> Tensor:
    """Uint8 [B, channels, H, W] as floats from -1 (paper) to 1 (ink), brought to ``image_size``.

    None leaves the size as it is.
    """
    pixels = image / 127.5 - 1
    return pixels if image_size is None else resize_image(pixels, image_size)


def resize_image(image: Tensor, image_size: int) -> Tensor:
    """Floating [B, channels, H, W] as [B, channels, image_size, image_size], antialiased."""
    if image.shape[-2:] == (image_size, image_size):
        return image
    return interpolate(image, (image_size, image_size), mode="bicubic", antialias=True)


def _resized(image: Tensor, rows: tuple[str, int], columns: tuple[str, int]) -> Tensor:
    dtype = torch.promote_types(image.dtype, torch.float32)
    height, width = image.shape[-2:]
    down: Tensor = _matrix(*rows, height, dtype, image.device)
    across: Tensor = _matrix(*columns, width, dtype, image.device)
    with _in_fp32(image.device):
        return down @ image.to(dtype) @ across.T


# An operator of its own, since a compiler traces into a cached function and would compute the
# pseudo-inverse at each call.
@torch.library.custom_op("jest_loader::resizing_matrix", mutates_args=())
def _matrix(kind: str, new: int, old: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _cached_matrix(
        kind, new, old, dtype, device
    ).clone()  # An operator must not return what it keeps.


@_matrix.register_fake
def _(kind: str, new: int, old: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(new, old, dtype=dtype, device=device)


@lru_cache(maxsize=256)
def _cached_matrix(
    kind: str, new: int, old: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[new, old]: bicubic resizing with antialiasing, or the pseudo-inverse of its transpose."""
    basis = torch.eye(old, dtype=torch.float64, device="cpu")[None, None]
    matrix = interpolate(basis, (new, old), mode="bicubic", antialias=True)[0, 0]
    if kind == "pseudo-inverse":
        matrix = torch.linalg.pinv(matrix.T)
    return matrix.to(device, dtype)
