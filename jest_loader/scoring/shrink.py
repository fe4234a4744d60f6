"""Making images smaller for scoring."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jest_loader.checks import whole


class Shrink:
    """Resizes a column of images to a lower resolution, for a scorer's ``prepare``.

    The filter is bilinear and antialiased: every pixel counts, as in an average over an area.

    Args:
        column: The batch's column of images, uint8 or floating [B, C, H, W].
        size: The shorter side of the result in pixels; the longer one keeps the proportions.

    Raises:
        ValueError: if ``size`` is not positive. When called: if the batch has no such column of
            images, or they are smaller than ``size``.
    """

    def __init__(self, column: str, size: int) -> None:
        self.column = column
        self.size = whole("size", size, 1)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A new dict: the batch with its images resized, of the dtype that they had."""
        images = self._images(batch)
        height, width = images.shape[2:]
        shorter = min(height, width)
        if shorter < self.size:
            raise ValueError(
                f"Shrink makes images smaller, but those of {height} x {width} have a shorter side "
                f"of less than {self.size}"
            )
        size = [round(side * self.size / shorter) for side in (height, width)]
        # In fp32, since not every device has the filter for bytes and halves.
        small = interpolate(images.float(), size, mode="bilinear", antialias=True)
        if images.dtype == torch.uint8:
            small = small.round()
        return {**batch, self.column: small.to(images.dtype)}

    def _images(self, batch: object) -> Tensor:
        if not isinstance(batch, Mapping) or self.column not in batch:
            has = map(repr, batch) if isinstance(batch, Mapping) else [type(batch).__name__]
            raise ValueError(
                f"the batch must have the column {self.column!r} to shrink, got {', '.join(has)}"
            )
        images = batch[self.column]
        if not isinstance(images, Tensor):
            raise ValueError(
                f"column {self.column!r} must be a tensor of images, got {type(images).__name__}; "
                "DecodeImages makes one of encoded images, already small"
            )
        if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(
                f"column {self.column!r} must be images, uint8 or floating [B, C, H, W], got "
                f"{images.dtype} of {tuple(images.shape)}"
            )
        return images
