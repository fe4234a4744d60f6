"""Everything that can be plugged in: sources, scorers, embedders, scores, selectors and state.

``Source``, ``Scorer``, ``Embedder``, ``ExampleValues``, ``Scores`` and ``Selector`` are what a part
has to be. The other protocols are what it may offer on top; whoever uses it asks by ``isinstance``.
docs/architecture.md has a table of what a part gets for each.
"""

from collections.abc import Iterator, Mapping
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
class EpochSource(Protocol):
    """A source that yields another order in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of ``epoch``; a position loaded within it is kept."""
        ...


@runtime_checkable
class ShardableSource(Protocol):
    """A source that can yield one rank's part of the data."""

    def shard(self, rank: int, num_ranks: int) -> None:
        """Let the next pass yield every ``num_ranks``-th row, from row ``rank`` on."""
        ...


@runtime_checkable
class BatchedSource(Protocol):
    """A source that knows the size of its batches before one is read."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch; the last one of an epoch may have fewer."""
        ...


@runtime_checkable
class CountedSource(Protocol):
    """A source that knows how many examples it holds."""

    @property
    def num_examples(self) -> int:
        """Examples of an epoch."""
        ...


@runtime_checkable
class SeekableSource(Source, BatchedSource, Protocol):
    """A source that can start at any batch without reading those before it."""

    def __len__(self) -> int:
        """Batches of an epoch."""
        ...

    def seek(self, batch: int) -> None:
        """Let the next pass start at that batch of the epoch, from 0."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that can tell its data from others'."""

    def fingerprint(self) -> str:
        """A digest of the data, the same wherever they lie."""
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
    """Scores of one rank's candidates that can be conditioned on other ranks' choices."""

    def share(self, chosen: Tensor) -> list[Tensor]:
        """Tensors [n, ...] that other ranks need, to be conditioned on ``chosen`` (int64 [n])."""
        ...

    def given_shared(self, chosen: Tensor, everyones: list[Tensor]) -> Scores:
        """The scores once ``chosen`` and what other ranks chose are in the sub-batch.

        Args:
            chosen: Int64 [n], this rank's candidates that were chosen.
            everyones: The tensors of ``share`` from all ranks, this one too, joined: [m, ...].
        """
        ...


@runtime_checkable
class ContextScores(Protocol):
    """Scores that may be equal for all candidates until some are chosen, as softmax scores are."""

    @property
    def needs_context(self) -> bool:
        """Whether all candidates score equally until some are chosen."""
        ...


@runtime_checkable
class BatchScores(Protocol):
    """Scores that know what some candidates are worth as a batch by themselves."""

    def rows(self, chosen: Tensor) -> "BatchScores":
        """The scores of ``chosen`` (int64 [n]) alone, with nothing chosen."""
        ...

    def mean(self) -> Tensor:
        """[]: the score of all candidates as one batch, per example."""
        ...


@runtime_checkable
class SkippingScores(Protocol):
    """Scores that say why candidates have none."""

    @property
    def skipped(self) -> Mapping[int, str]:
        """The reason by candidate, for some or all whose logits are NaN."""
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
class SkippingValues(ExampleValues, Protocol):
    """Values that say why examples have none."""

    def values_and_skipped(self, batch: Batch) -> tuple[Tensor, Mapping[int, str]]:
        """The values, and the reason by row for some or all that are NaN."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores the candidates of a super-batch."""

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
        """The same with a copy of the weights as they are now, valid until the next call.

        It may return itself where there are no weights, or only ``update`` changes them.
        """
        ...


@runtime_checkable
class WithLoss(Protocol):
    """A scorer or embedder that is made for one contrastive loss."""

    @property
    def loss(self) -> object:
        """``"sigmoid"`` or ``"softmax"``."""
        ...


@runtime_checkable
class WithEqualBy(Protocol):
    """A scorer or embedder that takes some candidates not to be each other's negatives."""

    @property
    def equal_by(self) -> object:
        """The column in which equal candidates are not; None: all others are negatives."""
        ...


@runtime_checkable
class WithLearner(Protocol):
    """A scorer in which the model being trained, or a proxy of it, has a part."""

    @property
    def learner(self) -> object:
        """The embedder of that model."""
        ...


@runtime_checkable
class WithReference(Protocol):
    """A scorer, or its scores, in which a reference model has a part."""

    @property
    def reference(self) -> object:
        """Of a scorer the reference; of scores its ``Embeddings``, or None if it has no part."""
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


@runtime_checkable
class GainSelector(Selector, Protocol):
    """A selector that multiplies scores by a gain before it draws; a schedule sets it if it can."""

    @property
    def gain(self) -> float:
        """The factor on the logits."""
        ...


@runtime_checkable
class QuotaSelector(Selector, Protocol):
    """A selector that chooses how many candidates each of several ranks draws."""

    @property
    def quota(self) -> str:
        """``"equal"``, ``"global"`` or ``"local"``; with ``"global"`` rows move between ranks."""
        ...
