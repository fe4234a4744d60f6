"""The scores of arXiv 2406.17711, from a learner's and a reference's embeddings."""

from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from jest_loader.batch import Batch
from jest_loader.protocols import Embedder, Loss, Snapshots, Trainable
from jest_loader.scoring.embedding_checks import check_loss
from jest_loader.scoring.groups import check_column, group_ids
from jest_loader.scoring.scores import FactoredScores


@dataclass(frozen=True)
class _WithLearner:
    """What scorers do with their learner but score."""

    learner: Embedder

    def update(self, sub_batch: Batch) -> None:
        """Let a learner that is an online proxy train on the sub-batch."""
        if isinstance(self.learner, Trainable):
            self.learner.update(sub_batch)

    def snapshot(self) -> Self:
        """The same with a copy of the learner's weights, good until the next call."""
        assert isinstance(self.learner, Snapshots), "JestDataset refuses overlap without it"
        return replace(self, learner=self.learner.snapshot())


@dataclass(frozen=True)
class Learnability(_WithLearner):
    """Learner loss less reference loss: what is not learned yet and can be learned.

    Args:
        learner: Embeds with the model being trained, or with an online proxy of it.
        reference: Embeds with a model trained on well-curated data, or reads its cached embeddings.
        loss: ``"sigmoid"`` or ``"softmax"``, the loss that both models are trained with.
        equal_by: A column of the batch, such as ``"caption"``: candidates that are equal in it are
            not each other's negatives. Strings or whole numbers. None for none.

    Raises:
        ValueError: if ``loss`` is another word, a side cannot embed, or ``equal_by`` names no
            column.
    """

    reference: Embedder
    loss: Loss = "sigmoid"
    equal_by: str | None = None

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_embedder("learner", self.learner)
        _check_proxy(self.learner, self.loss)
        check_embedder("reference", self.reference)
        check_column(self.equal_by)

    def score(self, super_batch: Batch) -> FactoredScores:
        """Scores of the super-batch's candidates."""
        return FactoredScores(
            self.learner.embed(super_batch),
            self.reference.embed(super_batch),
            self.loss,
            groups=group_ids(super_batch, self.equal_by),
        )


@dataclass(frozen=True)
class EasyReference:
    """The negative of the reference's loss: what it finds easy. With a cache, no model runs.

    Args:
        reference: As for ``Learnability``.
        loss: As for ``Learnability``.
        equal_by: As for ``Learnability``.

    Raises:
        ValueError: as ``Learnability``.
    """

    reference: Embedder
    loss: Loss = "sigmoid"
    equal_by: str | None = None

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_embedder("reference", self.reference)
        check_column(self.equal_by)

    def score(self, super_batch: Batch) -> FactoredScores:
        """Scores of the super-batch's candidates."""
        return FactoredScores(
            reference=self.reference.embed(super_batch),
            loss=self.loss,
            groups=group_ids(super_batch, self.equal_by),
        )

    def snapshot(self) -> "EasyReference":
        """Itself: the reference's weights stay as they are."""
        return self


@dataclass(frozen=True)
class HardLearner(_WithLearner):
    """The learner's loss: what is not learned yet, learnable or not.

    Args:
        learner: As for ``Learnability``.
        loss: As for ``Learnability``.
        equal_by: As for ``Learnability``.

    Raises:
        ValueError: as ``Learnability``.
    """

    loss: Loss = "sigmoid"
    equal_by: str | None = None

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_embedder("learner", self.learner)
        _check_proxy(self.learner, self.loss)
        check_column(self.equal_by)

    def score(self, super_batch: Batch) -> FactoredScores:
        """Scores of the super-batch's candidates."""
        return FactoredScores(
            learner=self.learner.embed(super_batch),
            loss=self.loss,
            groups=group_ids(super_batch, self.equal_by),
        )


def _check_proxy(learner: Embedder, loss: Loss) -> None:
    trained_with = getattr(learner, "loss", loss)
    if trained_with != loss:
        raise ValueError(
            f"a proxy must be trained with the loss it scores with, got {trained_with} and {loss}"
        )


def check_embedder(name: str, side: object) -> None:
    """Raise ``ValueError`` unless ``side`` embeds; a bare model does so in the wrong mode."""
    if not isinstance(side, Embedder) or isinstance(side, nn.Module):
        raise ValueError(
            f"{name} must be an embedder, got {type(side).__name__}; wrap a model in "
            "LiveLearner, OnlineProxy or FrozenReference"
        )
