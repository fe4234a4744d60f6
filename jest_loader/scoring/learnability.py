"""The scores of arXiv 2406.17711, from a learner's and a reference's embeddings."""

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from jest_loader.batch import Batch
from jest_loader.protocols import Embedder, Loss, Snapshots, Trainable, WithLoss
from jest_loader.scoring.embedding_checks import check_loss
from jest_loader.scoring.groups import check_column, group_ids
from jest_loader.scoring.precision import remedies
from jest_loader.scoring.scores import FactoredScores
from jest_loader.scoring.sized import SizeAdapting
from jest_loader.scoring.turns import TakesTurns


class _ContrastiveScorer:
    """Scores with the embedders that a subclass has as ``learner``, ``reference`` or both."""

    loss: Loss
    equal_by: str | None

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_column(self.equal_by)
        for name, side in self._sides.items():
            check_embedder(name, side)
        _check_proxy(self._sides.get("learner"), self.loss)

    @property
    def _sides(self) -> dict[str, Embedder]:
        return {name: vars(self)[name] for name in ("learner", "reference") if name in vars(self)}

    def score(self, super_batch: Batch) -> FactoredScores:
        """Scores of the super-batch's candidates."""
        sides = {name: side.embed(super_batch) for name, side in self._sides.items()}
        groups = group_ids(super_batch, self.equal_by)
        return FactoredScores(
            sides.get("learner"), sides.get("reference"), self.loss, groups=groups
        )

    @property
    def if_not_finite(self) -> str:
        """What to change where scores are not finite; empty where no side ran in fp16."""
        return remedies(self._sides.values())

    def update(self, sub_batch: Batch) -> None:
        """Let a learner that is an online proxy train on the sub-batch."""
        learner = self._sides.get("learner")
        if isinstance(learner, Trainable):
            learner.update(sub_batch)

    def at_sub_batch_size(self, size: int) -> Self:
        """The same with each side's bias for sub-batches of ``size``, where it can be adapted."""
        adapting = {k: side for k, side in self._sides.items() if isinstance(side, SizeAdapting)}
        sides = {name: side.at_sub_batch_size(size) for name, side in adapting.items()}
        if all(sides[name] is side for name, side in adapting.items()):
            return self
        scorer: Any = self
        found: Self = replace(scorer, **sides)
        return found

    def at_turn(self, key: int) -> Self:
        """The same with the reference whose turn a step of that key is."""
        reference = self._sides.get("reference")
        if not isinstance(reference, TakesTurns):
            return self
        scorer: Any = self
        found: Self = replace(scorer, reference=reference.at_turn(key))
        return found

    def snapshot(self) -> Self:
        """The same with a copy of the learner's weights, valid until the next call."""
        learner = self._sides.get("learner")
        if learner is None:
            return self  # The reference's weights stay as they are.
        assert isinstance(learner, Snapshots), "JestDataset refuses overlap without it"
        scorer: Any = self
        copied: Self = replace(scorer, learner=learner.snapshot())
        return copied


@dataclass(frozen=True)
class Learnability(_ContrastiveScorer):
    """Learner loss less reference loss: what is not learned yet and can be learned.

    Args:
        learner: Embeds with the model being trained, or with an online proxy of it.
        reference: Embeds with a model trained on well-curated data, or reads its cached embeddings.
        loss: ``"sigmoid"`` or ``"softmax"``, the loss that both models are trained with.
        equal_by: A column of the batch, such as ``"caption"``, of text or whole numbers: candidates
            that are equal in it are not each other's negatives. None makes all others negatives.

    Raises:
        ValueError: if ``loss`` is another word, a side cannot embed, a proxy is trained with
            another loss, or ``equal_by`` is no name.
    """

    learner: Embedder
    reference: Embedder
    loss: Loss = "sigmoid"
    equal_by: str | None = None


@dataclass(frozen=True)
class EasyReference(_ContrastiveScorer):
    """The negative of the reference's loss: what it finds easy. With a cache, no model runs.

    Args:
        reference: Embeds with a model trained on well-curated data, or reads its cached embeddings.
        loss: ``"sigmoid"`` or ``"softmax"``, the loss that the reference was trained with.
        equal_by: A column of the batch, such as ``"caption"``, of text or whole numbers: candidates
            that are equal in it are not each other's negatives. None makes all others negatives.

    Raises:
        ValueError: if ``loss`` is another word, ``reference`` cannot embed, or ``equal_by`` is no
            name.
    """

    reference: Embedder
    loss: Loss = "sigmoid"
    equal_by: str | None = None


@dataclass(frozen=True)
class HardLearner(_ContrastiveScorer):
    """The learner's loss: what is not learned yet, learnable or not.

    Args:
        learner: Embeds with the model being trained, or with an online proxy of it.
        loss: ``"sigmoid"`` or ``"softmax"``, the loss that the learner is trained with.
        equal_by: A column of the batch, such as ``"caption"``, of text or whole numbers: candidates
            that are equal in it are not each other's negatives. None makes all others negatives.

    Raises:
        ValueError: if ``loss`` is another word, ``learner`` cannot embed or is a proxy that is
            trained with another loss, or ``equal_by`` is no name.
    """

    learner: Embedder
    loss: Loss = "sigmoid"
    equal_by: str | None = None


def _check_proxy(learner: object, loss: Loss) -> None:
    if isinstance(learner, WithLoss) and learner.loss != loss:
        raise ValueError(
            "a proxy must be trained with the loss that it scores with, but its loss is "
            f"{learner.loss!r} and the scorer's {loss!r}; pass loss={loss!r} to OnlineProxy"
        )


def check_embedder(name: str, side: object) -> None:
    """Raise ``ValueError`` unless ``side`` embeds; a bare model does so in the wrong mode."""
    if not isinstance(side, Embedder) or isinstance(side, nn.Module):
        raise ValueError(
            f"{name} must be an embedder, got {type(side).__name__}; wrap a model in "
            "LiveLearner, OnlineProxy or FrozenReference"
        )
