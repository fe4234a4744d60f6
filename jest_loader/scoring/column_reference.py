"""A reference whose embeddings come with the batch."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.embeddings import Embeddings
from jest_loader.scoring.calibration import adapted_bias
from jest_loader.scoring.sized import checked_batch_size
from jest_loader.seen import SeenFunction, check_seen

View = int | Callable[[Batch], Any]
"""Which of several embeddings of an example: a number from 0, or a function of the batch."""


@dataclass(frozen=True)
class ColumnReference:
    """Reads the reference's embeddings from columns of the batch.

    Args:
        image: The column of image embeddings, floating [B, D]; or [B, K, D], of K views of each
            image, such as augmentations.
        text: The column of text embeddings, floating [B, D]; or [B, K, D], of K captions.
        logit_scale: The reference's inverse temperature.
        logit_bias: The reference's logit bias; None for a softmax model.
        trained_batch_size: How many examples, over all ranks, were each other's negatives when the
            reference was trained with the sigmoid loss. ``JestDataset`` then has the bias adapted
            to its sub-batches. None leaves the bias as it is.
        device: Where the embeddings of a super-batch are put, the learner's device.
        seen: Says which examples of a batch the reference was trained on: ``SeenRows(ids)``, or a
            function of the batch that returns bool [B]. None where it is not known.
        width: How many of the columns' numbers to take, from the first on, where the embeddings of
            several models stand one after the other; each must be of unit norm by itself. None
            takes all.
        image_view: Which of the K views to take: one number for all, or a function of the batch
            that returns int64 [B], such as ``lambda batch: batch["sample_id"] % 10``.
        text_view: Likewise of the K captions.

    Raises:
        ValueError: if ``trained_batch_size`` or ``width`` is no whole number of at least 1, a view
            is neither a whole number of at least 0 nor a function, or ``seen`` no function.
    """

    image: str = "reference_image"
    text: str = "reference_text"
    _: KW_ONLY
    logit_scale: float
    logit_bias: float | None = None
    trained_batch_size: int | None = None
    device: torch.device | str = "cpu"
    seen: SeenFunction | None = None
    width: int | None = None
    image_view: View = 0
    text_view: View = 0

    def __post_init__(self) -> None:
        checked_batch_size(self.trained_batch_size)
        check_seen(self.seen)
        if self.width is not None:
            whole("width", self.width, 1)
        for name in ("image_view", "text_view"):
            view = getattr(self, name)
            if not callable(view):
                whole(name, view, 0)

    @property
    def has_seen(self) -> SeenFunction | None:
        """Says which examples the reference was trained on, if that is known."""
        return self.seen

    def at_sub_batch_size(self, size: int) -> Self:
        """The same with the bias for sub-batches of ``size``, where it can be adapted."""
        if self.trained_batch_size is None or self.logit_bias is None:
            return self
        bias = float(adapted_bias(self.logit_bias, self.trained_batch_size, size))
        return replace(self, logit_bias=bias, trained_batch_size=size)

    def embed(self, batch: Batch) -> Embeddings:
        """The embeddings that the batch holds; rows of NaN are skipped.

        Raises:
            ValueError: if it has no such columns, they hold something else or are narrower than
                ``width``, or there is no such view.
        """
        image, text = (
            self._narrowed(name, _viewed(name, _column(batch, name), view, batch))
            for name, view in ((self.image, self.image_view), (self.text, self.text_view))
        )
        found = Embeddings(
            image.to(self.device), text.to(self.device), self.logit_scale, self.logit_bias
        )
        absent = (image.isnan() | text.isnan()).any(dim=1).nonzero()[:, 0].tolist()
        return replace(found, skipped=dict.fromkeys(absent, "its reference embedding is NaN"))

    def _narrowed(self, name: str, rows: Tensor) -> Tensor:
        if self.width is None:
            return rows
        if rows.ndim != 2 or rows.shape[1] < self.width:
            raise ValueError(
                f"width must be at most that of the column, but is {self.width} and column "
                f"{name!r} is of shape {tuple(rows.shape)}; give a smaller one"
            )
        return rows[:, : self.width]


def _viewed(name: str, rows: Tensor, view: View, batch: Batch) -> Tensor:
    """[B, D]: one view of each example, of a column that has several; else the column."""
    if rows.ndim != 3:
        return rows
    size, num_views = rows.shape[:2]
    if not callable(view):
        chosen = torch.full((size,), int(view))
    else:
        chosen = torch.as_tensor(view(batch)).to(rows.device)
    is_whole = not chosen.is_floating_point() and chosen.dtype != torch.bool
    if not is_whole or chosen.shape != (size,):
        raise ValueError(
            f"a view must be one whole number for each example, int64 of shape ({size},), got "
            f"{chosen.dtype} of {tuple(chosen.shape)} for column {name!r}"
        )
    chosen = chosen.long()
    outside = (chosen < 0) | (chosen >= num_views)
    if outside.any():
        raise ValueError(
            f"a view must be from 0 to {num_views - 1}, as column {name!r} has {num_views} of each "
            f"example, got {int(chosen[outside][0])}"
        )
    return rows[torch.arange(size, device=rows.device), chosen]


def _column(batch: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(batch[name])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"the reference's embeddings must be in the batch as an array, but its column {name!r} "
            "is not there or holds something else; write them into the data, or name the column"
        ) from error
