"""FlexiViT (arXiv 2212.08013): one patch kernel and one grid of positions at several sizes.

Both are resized by a matrix from the left and its transpose from the right, since resizing an image
treats rows and columns alike. The pseudo-inverse of such a product is that of its factors, so a
matrix is as large as a patch, [32, 16], and not as a patch's pixels, [1024, 256].
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize_kernel(kernel: Tensor, patch_size: int) -> Tensor:
    """The kernel for patches of another size (PI-resize, section 3.4 of FlexiViT).

    For larger patches its product with a patch that was resized is that of ``kernel`` with the
    patch; for smaller ones as nearly as can be, in the mean over all patches.

    Args:
        kernel: Floating [width, channels, p, p]; gradients reach it.
        patch_size: The new p.

    Returns:
        [width, channels, patch_size, patch_size] in fp32 or better, whatever autocast says; the
        kernel itself where it has that size.
    """
    if kernel.shape[-1] == patch_size:
        return kernel
    side = ("pseudo-inverse", patch_size)
    return _resized(kernel, side, side)


def resize_patches(image: Tensor, patch_size: int, new_size: int) -> Tensor:
    """An image whose patches were each brought to another size, by PI-resize's matrix.

    A kernel of ``new_size`` sees in them what ``resize_kernel(kernel, patch_size)`` sees in the
    patches as they were: the same sums, for models whose kernel cannot be put in place of.

    Args:
        image: Floating [B, channels, rows * patch_size, columns * patch_size].
        patch_size: Pixels of a patch.
        new_size: Pixels of a patch of the result.

    Returns:
        [B, channels, rows * new_size, columns * new_size] in fp32 or better, or the image itself,
        as ``resize_kernel``.
    """
    if patch_size == new_size:
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    matrix: Tensor = _matrix("pseudo-inverse", patch_size, new_size, dtype, image.device)
    with _in_fp32(image.device):
        narrow = _times_each(image.to(dtype), matrix)
        return _times_each(narrow.mT, matrix).mT


def _in_fp32(device: torch.device) -> AbstractContextManager[object]:
    """Without autocast, which does not know the device of tensors that are only counted."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _times_each(image: Tensor, matrix: Tensor) -> Tensor:
    """The product of each stretch of a row that is as long as the matrix with the matrix."""
    *others, length = image.shape
    return (image.reshape(*others, length // len(matrix), len(matrix)) @ matrix).flatten(-2)


def resize_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """The embeddings of a square grid of places, interpolated to another grid.

    Args:
        positions: Floating [g * g, width], row by row; gradients reach it.
        rows: Rows of the new grid.
        columns: Columns of the new grid.

    Returns:
        [rows * columns, width] in fp32 or better, or the positions themselves, as
        ``resize_kernel``.
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


# An operator, since compilers look through a cache, and would compute the pseudo-inverse each time.
@torch.library.custom_op("jest_loader::resizing_matrix", mutates_args=())
def _matrix(kind: str, new: int, old: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _cached_matrix(kind, new, old, dtype, device).clone()  # An operator's own to give away.


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
