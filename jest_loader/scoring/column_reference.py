"""A reference whose embeddings come with the batch."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings
from jest_loader.scoring.calibration import adapted_bias
from jest_loader.scoring.sized import checked_batch_size
from jest_loader.seen import SeenFunction, check_seen


@dataclass(frozen=True)
class ColumnReference:
    """Reads the reference's embeddings from columns of the batch.

    Args:
        image: The column of image embeddings, floating [B, D].
        text: The column of text embeddings, floating [B, D].
        logit_scale: The reference's inverse temperature.
        logit_bias: The reference's logit bias; None for a softmax model.
        trained_batch_size: How many examples, over all ranks, were each other's negatives when the
            reference was trained with the sigmoid loss. ``JestDataset`` then has the bias adapted
            to its sub-batches. None leaves the bias as it is.
        device: Where the embeddings of a super-batch are put, the learner's device.
        seen: Says which examples of a batch the reference was trained on: ``SeenRows(ids)``, or a
            function of the batch that returns bool [B]. None where it is not known.

    Raises:
        ValueError: if ``trained_batch_size`` is no whole number of at least 1, or ``seen`` no
            function.
    """

    image: str = "reference_image"
    text: str = "reference_text"
    _: KW_ONLY
    logit_scale: float
    logit_bias: float | None = None
    trained_batch_size: int | None = None
    device: torch.device | str = "cpu"
    seen: SeenFunction | None = None

    def __post_init__(self) -> None:
        checked_batch_size(self.trained_batch_size)
        check_seen(self.seen)

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
            ValueError: if it has no such columns, or they hold something else.
        """
        image, text = (_column(batch, name) for name in (self.image, self.text))
        found = Embeddings(
            image.to(self.device), text.to(self.device), self.logit_scale, self.logit_bias
        )
        absent = (image.isnan() | text.isnan()).any(dim=1).nonzero()[:, 0].tolist()
        return replace(found, skipped=dict.fromkeys(absent, "its reference embedding is NaN"))


def _column(batch: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(batch[name])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"the reference's embeddings must be in the batch as an array, but its column {name!r} "
            "is not there or holds something else; write them into the data, or name the column"
        ) from error
