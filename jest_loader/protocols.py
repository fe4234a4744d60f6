"""Everything that can be plugged in: sources, scorers, embedders, scores, selectors and state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from jest_loader.batch import Batch

Loss = Literal["sigmoid", "softmax"]
"""The contrastive loss that scores are built from: SigLIP's sigmoid or CLIP's softmax."""


class BadSamplesError(ValueError):
    """Raised by a ``materialize`` function or a scorer for rows that it cannot use.

    ``JestDataset`` leaves those rows out, counts them and goes on with others.

    Args:
        reasons: What is wrong with each bad row of the batch it was called with, by row number.

    Raises:
        ValueError: if it names no row.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        if not self.reasons:
            raise ValueError("BadSamplesError must name the rows that are bad, got none")
        row, reason = next(iter(self.reasons.items()))
        super().__init__(f"{len(self.reasons)} bad samples, the first at row {row}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return BadSamplesError, (self.reasons,)


@runtime_checkable
class Source(Protocol):
    """Any iterable of batches of one size: a DataLoader, an MDS or Zarr source, a list."""

    def __iter__(self) -> Iterator[Batch]:
        """A pass over the data."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """torchdata's protocol, the only way state is saved. States are plain JSON values."""

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch drawn."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next pass go on from there."""
        ...


@runtime_checkable
class Scores(Protocol):
    """What a scorer says of B candidates; reads like a conditional probability."""

    @property
    def logits(self) -> Tensor:
        """Float [B]: the log of the unnormalised probability of drawing each candidate next.

        Minus infinity at candidates that were chosen already.
        """
        ...

    def given(self, chosen: Tensor) -> "Scores":
        """The scores once ``chosen`` (int64 [n], none chosen before) are in the sub-batch."""
        ...


@runtime_checkable
class SharedScores(Scores, Protocol):
    """Scores of some of the candidates, those of one rank, that others' choices can condition."""

    def share(self, chosen: Tensor) -> list[Tensor]:
        """What other ranks need to know of ``chosen`` (int64 [n]): tensors [n, ...]."""
        ...

    def given_shared(self, chosen: Tensor, everyones: list[Tensor]) -> Scores:
        """The scores once ``chosen`` and what other ranks chose are in the sub-batch.

        Args:
            chosen: Int64 [n], those of this rank's candidates.
            everyones: The tensors of ``share`` from all ranks, this one too, joined: [m, ...].
        """
        ...


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


@runtime_checkable
class Embedder(Protocol):
    """One side of a scorer, the learner's or the reference's."""

    def embed(self, batch: Batch) -> Embeddings:
        """The model's view of the batch's examples."""
        ...


@runtime_checkable
class ExampleValues(Protocol):
    """One number per example, such as the loss of a reference, run or looked up."""

    def values(self, batch: Batch) -> Tensor:
        """Floating [B], NaN where an example has none."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Says how much each candidate of a super-batch is worth."""

    def score(self, super_batch: Batch) -> Scores:
        """The scores of its candidates, with nothing chosen."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A scorer or embedder that learns from each emitted sub-batch, as an online proxy does."""

    def update(self, sub_batch: Batch) -> None:
        """Train on the rows chosen, in the form that they were scored in."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """A scorer or embedder that can go on scoring with the weights of a moment."""

    def snapshot(self) -> Any:
        """The same with a copy of the weights as they are now, good until the next call.

        Without weights, or where only ``update`` changes them, that is the object itself.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """Picks the sub-batch."""

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: distinct candidates in the order drawn, by the arguments alone."""
        ...
