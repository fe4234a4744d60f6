"""Everything that can be plugged in: sources, scorers, embedders, scores, selectors and state."""

from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings

Loss = Literal["sigmoid", "softmax"]
"""The contrastive loss that scores are built from: SigLIP's sigmoid or CLIP's softmax."""


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

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: distinct candidates in the order drawn.

        Args:
            scores: Of the candidates.
            size: How many to choose.
            key: Chooses the noise: the same arguments choose the same candidates. A whole number.
        """
        ...
