"""Checks of embeddings: both sides match, rows have unit norm, scale and bias make logits."""

import math
import warnings
from typing import get_args

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import exact_dtype
from jest_loader.protocols import Loss

# Rounding a unit row to bf16 moves its norm by 0.4 % at most.
_NORM_TOLERANCE = 0.05

# By how much rounding the two embeddings of a pair may change its logit without a warning. The
# limit is reached at scale 512 for fp16, and at 64 for bf16.
_MAX_ROUNDING = 0.5

# The parameter of CLIP starts at 2.66 and ends at 4.61, exp of it at 14.3 and 100.
_LEAST_USUAL_SCALE = 5.0


def check_loss(loss: Loss) -> None:
    """Raise ``ValueError`` unless ``loss`` is ``"sigmoid"`` or ``"softmax"``."""
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'sigmoid' or 'softmax', got {loss!r}")


def check_sides(learner: Embeddings | None, reference: Embeddings | None, loss: Loss) -> None:
    """Raise ``ValueError`` unless the sides make scores with ``loss``; one may be None."""
    if learner is not None and reference is not None:
        if len(learner.image) != len(reference.image):
            raise ValueError(
                "learner and reference must embed the same candidates, "
                f"got {len(learner.image)} and {len(reference.image)}"
            )
        if learner.image.device != reference.image.device:
            raise ValueError(
                "learner and reference embeddings must be on one device, "
                f"got {learner.image.device} and {reference.image.device}; "
                "CachedReference takes device="
            )
    for name, side in (("learner", learner), ("reference", reference)):
        if side is None:
            continue
        if loss == "sigmoid" and side.logit_bias is None:
            raise ValueError(
                f"the sigmoid loss needs a logit bias, but the {name}'s embeddings have none; "
                "use loss='softmax' for a softmax model, or give Embeddings a logit_bias"
            )
        _check_range(name, side)


def check_groups(groups: Tensor | None, num_examples: int) -> None:
    """Raise ``ValueError`` unless ``groups`` are None or one id for each example."""
    given: object = groups
    if given is None:
        return
    if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.ndim != 1:
        found = f"{given.dtype} of {tuple(given.shape)}" if isinstance(given, Tensor) else given
        raise ValueError(
            f"groups must be an int64 vector, one id per example, got {found}; "
            "jest_loader.scoring.groups.group_ids makes one of captions"
        )
    if len(given) != num_examples:
        raise ValueError(
            f"groups must have one id per example, got {len(given)} for {num_examples}"
        )


def norms_of(side: Embeddings) -> Tensor:
    """[2, B]: the norms of the images (0) and texts (1), in fp32, or fp64 of fp64."""
    norms = [
        torch.linalg.vector_norm(rows.detach(), dim=1, dtype=exact_dtype(rows.dtype))
        for rows in (side.image, side.text)
    ]
    return torch.stack(norms)


def is_unit(norms: Tensor) -> Tensor:
    """Bool, of their shape: whether each norm is 1, but for rounding. NaN is not."""
    return (norms - 1).abs() <= _NORM_TOLERANCE


def _check_range(name: str, side: Embeddings) -> None:
    """Refuse norms, a scale or a bias that make no logits; warn of too coarse a dtype.

    Rows that are not finite pass: their candidates are skipped, the others can be selected.
    """
    norms = norms_of(side)
    off = ~is_unit(norms) & torch.isfinite(norms)
    bias = 0.0 if side.logit_bias is None else side.logit_bias
    scalars = [
        torch.as_tensor(value).detach().to(norms).reshape(()) for value in (side.logit_scale, bias)
    ]
    num_off, scale, bias = torch.stack([off.sum().to(norms), *scalars]).tolist()  # The one wait.
    if num_off > 0:
        which, row = off.nonzero()[0].tolist()
        raise ValueError(
            f"embeddings must have rows of unit norm, but {num_off:.0f} of the {name}'s have not "
            f"(row {row} of its {('image', 'text')[which]} embeddings has norm "
            f"{norms[which, row].item():.3g}); use torch.nn.functional.normalize(rows, dim=1)"
        )
    check_logit(name, scale, bias)
    warn_if_coarse(name, side.image.dtype, scale)


def check_logit(name: str, scale: float, bias: float) -> None:
    """Raise ``ValueError`` for a scale or bias that makes no logits; warn of a logarithm.

    Args:
        name: Whose they are, such as ``"learner"``.
        scale: The inverse temperature.
        bias: The logit bias; 0 where there is none.
    """
    if not 0 < scale < math.inf or not math.isfinite(bias):
        raise ValueError(
            f"the {name}'s logit_scale must be positive and finite and its logit_bias finite, "
            f"got {scale} and {bias}; the scale is exp of what CLIP trains, and a model whose "
            "learning rate is too high may end so"
        )
    if scale < _LEAST_USUAL_SCALE:
        warnings.warn(
            f"the {name}'s logit_scale is below {_LEAST_USUAL_SCALE:g}, which looks like the "
            "logarithm that CLIP trains and changes what is selected; give its exp(), from 10 to "
            "100 as a rule",
            stacklevel=2,
        )


def warn_if_coarse(name: str, dtype: torch.dtype, scale: float) -> None:
    """Warn where rounding embeddings to ``dtype`` may change what is selected."""
    eps = torch.finfo(dtype).eps
    if not scale * eps > _MAX_ROUNDING:
        return
    warnings.warn(
        f"the {name}'s embeddings are {dtype}, which is too coarse beyond scale "
        f"{_MAX_ROUNDING / eps:g}: its logits may be off by more than {_MAX_ROUNDING}, which "
        "changes what is selected; give them a finer dtype",
        stacklevel=2,
    )
