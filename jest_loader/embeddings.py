"""One model's view of image-text pairs: what scores are made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One model's view of B image-text pairs.

    The logit of image i with text j is ``logit_scale * image[i] @ text[j] + logit_bias``.

    Args:
        image: Floating [B, D], rows of unit norm.
        text: Floating [B, D], rows of unit norm, on the same device and of the same dtype.
        logit_scale: The inverse temperature, as open_clip's ``forward`` returns it: ``exp`` of the
            parameter that CLIP and SigLIP train, so from 10 to 100 as a rule. A number, or a tensor
            of one element.
        logit_bias: SigLIP's logit bias, a number or a tensor of one element; None for a softmax
            model, which has none.
        skipped: Why rows that are NaN have no embedding, by row number. Such rows are not selected,
            and ``JestDataset`` reports them with these reasons.

    Raises:
        ValueError: if ``image`` and ``text`` are no tensors or do not match, or ``logit_scale`` is
            a parameter: in CLIP and SigLIP that is its logarithm.
    """

    image: Tensor
    text: Tensor
    logit_scale: float | Tensor
    logit_bias: float | Tensor | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_sides()
        _check_number("logit_scale", self.logit_scale)
        if self.logit_bias is not None:
            _check_number("logit_bias", self.logit_bias)
        if isinstance(self.logit_scale, nn.Parameter):
            raise ValueError(
                "logit_scale must be the scale itself, but is an nn.Parameter of "
                f"{self.logit_scale.item():.3g}, which in CLIP and SigLIP is its logarithm; give "
                "logit_scale.exp(), or 1 * parameter where the parameter is the scale itself"
            )

    def _check_sides(self) -> None:
        given: tuple[tuple[str, object], ...] = (("image", self.image), ("text", self.text))
        for name, side in given:
            if not isinstance(side, Tensor):
                raise ValueError(
                    f"{name} embeddings must be a tensor, got {type(side).__name__}; "
                    "use torch.as_tensor(rows)"
                )
        if self.image.ndim != 2 or self.image.shape != self.text.shape:
            raise ValueError(
                "image and text embeddings must both have shape [candidates, width], "
                f"got {tuple(self.image.shape)} and {tuple(self.text.shape)}"
            )
        if not self.image.is_floating_point() or self.image.dtype != self.text.dtype:
            raise ValueError(
                "image and text embeddings must have one floating-point dtype, "
                f"got {self.image.dtype} and {self.text.dtype}"
            )
        if self.image.device != self.text.device:
            raise ValueError(
                "image and text embeddings must be on one device, "
                f"got {self.image.device} and {self.text.device}"
            )


def _flatten(embeddings: Embeddings) -> tuple[list[Any], list[Any]]:
    values = [getattr(embeddings, one.name) for one in fields(embeddings)]
    return values[:-1], values[-1:]


def _unflatten(leaves: Iterable[Any], rest: list[Any]) -> Embeddings:
    made = object.__new__(Embeddings)  # Unchecked: leaves may be anything for the while.
    for one, value in zip(fields(Embeddings), [*leaves, *rest], strict=True):
        object.__setattr__(made, one.name, value)
    return made


# FSDP2 takes the tensors that a forward returned from a pytree. PyTorch 2.10 and older sees none in
# a dataclass that is not registered, and then averages no gradients over the ranks.
pytree.register_pytree_node(Embeddings, _flatten, _unflatten)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Tensor | Real):
        raise ValueError(f"{name} must be a number or a tensor of one element, got {value!r}")
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"{name} must be a number or a tensor of one element, got shape {tuple(value.shape)}"
        )
