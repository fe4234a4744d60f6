"""A model's scale and bias at another batch size than the one it was trained at.

Under the sigmoid loss each example has one positive and batch - 1 negatives, so the bias that
training ends at is about a constant less the logarithm of the batch size. Scored among more
examples, the model as it is gives negatives too much weight.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.checks import is_number, whole
from jest_loader.embeddings import Embeddings

_FEWEST_PAIRS = 16
_FIRST_SCALE, _LARGEST_SCALE = 10.0, 1000.0  # CLIP's ends at 100.
_MAX_STEPS = 50
_TOLERANCE = 1e-9  # Of the loss, which another step would lower by half of that.


class Calibration(NamedTuple):
    """The scale and bias of a model's logits, and the batch size that they suit.

    Three numbers, so that a checkpoint can hold it: ``Calibration(*saved)`` is the same again.
    """

    logit_scale: float
    logit_bias: float
    batch_size: int

    def checked(self) -> "Calibration":
        """Itself; raises ``ValueError`` if no model can have these logits."""
        numbers = all(map(is_number, self))
        if not numbers or not 0 < self.logit_scale < math.inf or not math.isfinite(self.logit_bias):
            raise ValueError(
                "a calibration must have a positive logit_scale and a finite logit_bias, got "
                f"{self.logit_scale!r} and {self.logit_bias!r}; give what calibrate returned"
            )
        whole("the batch_size of a calibration", self.batch_size, 1)
        return self


def adapted_bias(logit_bias: float | Tensor, trained_at: int, used_at: int) -> float | Tensor:
    """The bias of a model trained at one batch size, for the sigmoid loss at another.

    Args:
        logit_bias: The bias as it was trained.
        trained_at: Examples that were each other's negatives in training, over all ranks.
        used_at: Examples that are each other's negatives now.

    Returns:
        ``logit_bias - ln(used_at / trained_at)``.
    """
    return logit_bias - math.log(used_at / trained_at)


def calibrate(embeddings: Embeddings, size: int, *, max_pairs: int = 1024) -> Calibration:
    """The scale and bias of least sigmoid loss at a batch size, for embeddings as they are.

    For a model whose batch size is not known, or whose scale does not suit the data. The loss is
    what batches of ``size`` of the examples have on average: each pair's own term, and size - 1
    times the mean term of an image with the text of another example. Newton's method finds the one
    minimum, in fp64.

    Wrong captions do not count. Their cosines are as those with the texts of other examples, so
    their share is taken to be four times that of the pairs in the lowest quarter of such cosines,
    and that share of pairs is left out, the lowest. Where a model finds right captions that
    unlikely too, it leaves out some of them.

    Args:
        embeddings: Of examples like those to be scored, the more the better, none that the model
            was trained on. Rows that are not finite are left out.
        size: The batch size over all ranks, at least 2.
        max_pairs: Of how many examples, evenly spaced, images meet the texts of others. Time and
            memory grow with its square.

    Returns:
        What a ``FrozenReference`` or a ``CachedReference`` takes as ``calibration``. The same
        embeddings give the same.

    Raises:
        ValueError: if a size is out of range, fewer than 16 rows are finite, or no scale up to 1000
            has the least loss: pairs are told from others without error, or not at all.
    """
    size = whole("size", size, 2)
    own, others = _cosines(embeddings, whole("max_pairs", max_pairs, _FEWEST_PAIRS))
    found = _least(_right(own, others), others, size)
    if found is None or not 0 < found[0] <= _LARGEST_SCALE:
        raise ValueError(
            "calibrate needs pairs that the model tells from others with some error, but no "
            f"logit_scale up to {_LARGEST_SCALE:g} has the least loss on these {len(own)}; give "
            "pairs that it was not trained on, or more of them, or use adapted_bias"
        )
    return Calibration(*found, size)


def _cosines(embeddings: Embeddings, max_pairs: int) -> tuple[Tensor, Tensor]:
    """Fp64 vectors: of each image with its own text, and of some with texts of others."""
    image, text = (side.detach().double() for side in (embeddings.image, embeddings.text))
    finite = (image.isfinite() & text.isfinite()).all(dim=1)
    image, text = image[finite], text[finite]
    if len(image) < _FEWEST_PAIRS:
        raise ValueError(
            f"calibrate needs at least {_FEWEST_PAIRS} pairs of finite embeddings, got {len(image)}"
        )
    num_pairs = min(len(image), max_pairs)
    rows = torch.arange(num_pairs, device=image.device) * len(image) // num_pairs
    is_own = torch.eye(num_pairs, dtype=torch.bool, device=image.device)
    return (image * text).sum(dim=1), (image[rows] @ text[rows].T)[~is_own]


def _right(own: Tensor, others: Tensor) -> Tensor:
    """The own cosines, without as many of the lowest as there are wrong captions."""
    lowest_quarter = others.kthvalue(len(others) // 4).values
    num_wrong = 4 * int((own <= lowest_quarter).sum())
    return own.sort().values[min(num_wrong, len(own) - 1) :]


def _least(own: Tensor, others: Tensor, size: int) -> tuple[float, float] | None:
    """Where the mean of softplus(-z) of own, and of (size - 1) softplus(z) of others, is least."""
    signs = torch.cat([-torch.ones_like(own), torch.ones_like(others)])
    inputs = torch.stack([signs * torch.cat([own, others]), signs])
    weights = torch.ones_like(signs) / len(own)
    weights[len(own) :] = (size - 1) / len(others)

    def loss_at(at: Tensor) -> Tensor:
        return weights @ softplus(at @ inputs)

    at = own.new_tensor([_FIRST_SCALE, -math.log(size)])
    for _ in range(_MAX_STEPS):
        likely, loss = torch.sigmoid(at @ inputs), loss_at(at)
        gradient = inputs @ (weights * likely)
        curvature = (inputs * (weights * likely * (1 - likely))) @ inputs.T
        step, singular = torch.linalg.solve_ex(curvature, gradient)
        gain = gradient @ step
        if singular or not gain.isfinite():
            return None
        if gain <= _TOLERANCE * loss:
            scale, bias = at.tolist()
            return scale, bias
        while loss_at(at - step) > loss - gain / 4:
            step, gain = step / 2, gain / 2
        at = at - step
    return None
