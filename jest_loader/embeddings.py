"""One model's view of image-text pairs: what scores are made of."""

from dataclasses import dataclass
from numbers import Real

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One model's view of B image-text pairs.

    The logit of image i with text j is ``scale * image[i] @ text[j] + bias``.

    Args:
        image: Floating [B, D], rows of unit norm.
        text: Floating [B, D], rows of unit norm, on the same device and of the same dtype.
        scale: The inverse temperature, positive: ``exp`` of what CLIP and SigLIP train. A number,
            or a tensor of one element.
        bias: SigLIP's logit bias, likewise; None for a softmax model, which has none.

    Raises:
        ValueError: if ``image`` and ``text`` are no tensors or do not match.
    """

    image: Tensor
    text: Tensor
    scale: float | Tensor
    bias: float | Tensor | None = None

    def __post_init__(self) -> None:
        given: tuple[tuple[str, object], ...] = (("image", self.image), ("text", self.text))
        for name, side in given:
            if not isinstance(side, Tensor):
                raise ValueError(
                    f"{name} embeddings must be a tensor, got {type(side).__name__}; "
                    "use torch.as_tensor(rows)"
                )
        numbers: tuple[tuple[str, object], ...] = (("scale", self.scale), ("bias", self.bias))
        for name, value in numbers:
            if not isinstance(value, Tensor | Real) and not (name == "bias" and value is None):
                raise ValueError(
                    f"{name} must be a number or a tensor of one element, got {value!r}"
                )
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(
                    f"{name} must be a number or a tensor of one element, got shape "
                    f"{tuple(value.shape)}"
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
