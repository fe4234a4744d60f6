"""Scores of a super-batch's candidates, and what they become as the sub-batch grows.

``FactoredScores`` is what runs: it holds embeddings and never a B x B array. The scores in
``dense_scores`` hold the matrix; they are the specification that it is tested against.
``ExampleScores`` holds one number per candidate, and conditioning changes none of them.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.dense_scores import DenseScores, DenseSoftmaxScores, excluding, signed
from jest_loader.embedding_checks import check_loss, check_sides
from jest_loader.ops.dispatch import Pairs, pairs
from jest_loader.ops.reference import all_logits, exact
from jest_loader.protocols import Embeddings, Loss, Scores


class ExampleScores:
    """One score per candidate, such as RHO-LOSS's reducible loss (arXiv 2206.07137).

    Args:
        values: Floating [B], higher is drawn more often.

    Raises:
        ValueError: if ``values`` is not a floating-point vector.
    """

    def __init__(self, values: Tensor) -> None:
        given: object = values
        if not isinstance(given, Tensor):
            raise ValueError(
                f"example scores must be a tensor, got {type(values).__name__}; "
                "use torch.as_tensor(values)"
            )
        if values.ndim != 1 or not values.is_floating_point():
            raise ValueError(
                "example scores must be one floating-point number per candidate, "
                f"got shape {tuple(values.shape)} of {values.dtype}"
            )
        self.logits = values.to(torch.promote_types(values.dtype, torch.float32))

    def given(self, chosen: Tensor) -> ExampleScores:
        """The same scores, minus infinity at ``chosen`` (int64 [n])."""
        return ExampleScores(excluding(self.logits, chosen))

    def rows(self, chosen: Tensor) -> ExampleScores:
        """The scores of ``chosen`` (int64 [n]) alone."""
        return ExampleScores(self.logits[chosen])

    def mean(self) -> Tensor:
        """[]: the mean score."""
        return self.logits.mean()

    def share(self, chosen: Tensor) -> list[Tensor]:
        """Nothing: what is chosen changes no other candidate's score."""
        return []

    def given_shared(self, chosen: Tensor, everyones: list[Tensor]) -> ExampleScores:
        """As ``given``."""
        return self.given(chosen)


class FactoredScores:
    """Scores from the embeddings of a learner, a reference or both; never holds a B x B array.

    With both it is learnability, the learner's loss less the reference's; with the reference
    alone, easy reference; with the learner alone, hard learner (arXiv 2406.17711).

    Args:
        learner: Embeddings of the B candidates by the model being trained.
        reference: Embeddings of the same candidates by the reference model; the width may differ.
        loss: ``"sigmoid"`` (SigLIP: a sum over pairs) or ``"softmax"`` (CLIP: a running
            log-sum-exp).
        fused: Whether Triton kernels compute it. None takes them on a CUDA GPU that has bf16,
            where Triton is installed and the embeddings are not fp64.

    Raises:
        ValueError: if neither is given, they differ in count or device, a sigmoid score lacks a
            bias, or fused kernels are asked for where they cannot run.
    """

    def __init__(
        self,
        learner: Embeddings | None = None,
        reference: Embeddings | None = None,
        loss: Loss = "sigmoid",
        *,
        fused: bool | None = None,
    ) -> None:
        check_loss(loss)
        sides = signed(learner, reference)
        check_sides(learner, reference, loss)
        start = _SigmoidLoss.start if loss == "sigmoid" else _SoftmaxLoss.start
        self._fused = fused
        self._losses = [(sign, start(pairs(side, fused=fused))) for sign, side in sides]
        self._taken = torch.zeros(
            len(sides[0][1].image), dtype=torch.bool, device=sides[0][1].image.device
        )

    @property
    def needs_context(self) -> bool:
        """Whether all candidates are equal until some are chosen: so under the softmax loss."""
        return isinstance(self._losses[0][1], _SoftmaxLoss)

    @property
    def logits(self) -> Tensor:
        """Float32, or float64 where the embeddings are, [B]."""
        total = sum(sign * loss.value for sign, loss in self._losses)
        return torch.as_tensor(total).masked_fill(self._taken, -torch.inf)

    def given(self, chosen: Tensor) -> FactoredScores:
        """The scores once ``chosen`` (int64 [n]) are in the sub-batch; costs O(n B D)."""
        return self._given(chosen, [loss.pairs.rows(chosen) for _, loss in self._losses])

    def share(self, chosen: Tensor) -> list[Tensor]:
        """[n, 2, D] of each model: the images and texts of ``chosen`` (int64 [n])."""
        return [loss.pairs.rows(chosen).transpose(0, 1) for _, loss in self._losses]

    def given_shared(self, chosen: Tensor, everyones: list[Tensor]) -> FactoredScores:
        """The scores once ``chosen`` and other ranks' candidates are in the sub-batch.

        Args:
            chosen: Int64 [n], those of these candidates.
            everyones: What ``share`` returned on all ranks, joined: [m, 2, D] of each model.
        """
        return self._given(chosen, [rows.transpose(0, 1) for rows in everyones])

    def _given(self, chosen: Tensor, chunks: list[Tensor]) -> FactoredScores:
        out = copy(self)
        out._losses = [
            (sign, loss.given(chunk))
            for (sign, loss), chunk in zip(self._losses, chunks, strict=True)
        ]
        out._taken = self._taken.index_fill(0, chosen, value=True)
        return out

    def rows(self, chosen: Tensor) -> FactoredScores:
        """The scores of ``chosen`` (int64 [n]) alone, with nothing chosen."""
        out = copy(self)
        out._losses = [
            (sign, loss.start(pairs(rows_of(loss.pairs.embeddings, chosen), fused=self._fused)))
            for sign, loss in self._losses
        ]
        out._taken = self._taken.new_zeros(len(chosen))
        return out

    def mean(self) -> Tensor:
        """[]: the score of all candidates as one batch, per example; costs O(B^2 D).

        For learnability that is the learner's loss on them less the reference's.
        """
        return torch.as_tensor(sum(sign * loss.mean() for sign, loss in self._losses))

    @property
    def reference(self) -> Embeddings | None:
        """The reference's embeddings, in fp32 or fp64 where they are; None if it has no part."""
        found = [loss.pairs.embeddings for sign, loss in self._losses if sign < 0]
        return found[0] if found else None

    def dense(self) -> Scores:
        """The same scores with nothing chosen and with their matrices, for small super-batches."""
        logits = {sign: all_logits(exact(loss.pairs.embeddings)) for sign, loss in self._losses}
        if self.needs_context:
            return DenseSoftmaxScores(logits.get(1), logits.get(-1))
        eye = torch.eye(len(self._taken), dtype=torch.bool, device=self._taken.device)
        pairwise = sum(sign * softplus(torch.where(eye, -z, z)) for sign, z in logits.items())
        return DenseScores(torch.as_tensor(pairwise))


@dataclass(frozen=True, eq=False)
class _SigmoidLoss:
    """What each candidate adds to the sigmoid loss of the chosen set."""

    pairs: Pairs
    value: Tensor

    @classmethod
    def start(cls, pairs: Pairs) -> _SigmoidLoss:
        return cls(pairs, softplus(-pairs.own_logits()))

    def given(self, chunk: Tensor) -> _SigmoidLoss:
        return replace(self, value=self.value + self.pairs.sigmoid_loss(chunk))

    def mean(self) -> Tensor:
        """[]: the loss of all candidates as one batch, per example."""
        own = self.pairs.own_logits()
        # Each pair of two candidates comes twice; with itself, each comes twice as a negative.
        everyone = torch.arange(len(own), device=own.device)
        added = self.pairs.sigmoid_loss(self.pairs.rows(everyone))
        return (softplus(-own) + added / 2 - softplus(own)).mean()


@dataclass(frozen=True, eq=False)
class _SoftmaxLoss:
    """Each candidate's softmax loss among the chosen set and itself."""

    pairs: Pairs
    own: Tensor
    normalisers: Tensor

    @classmethod
    def start(cls, pairs: Pairs) -> _SoftmaxLoss:
        own = pairs.own_logits()
        return cls(pairs, own, own.new_full((2, len(own)), -torch.inf))

    @property
    def value(self) -> Tensor:
        return torch.logaddexp(self.normalisers, self.own).mean(dim=0) - self.own

    def given(self, chunk: Tensor) -> _SoftmaxLoss:
        added = self.pairs.softmax_normalisers(chunk)
        return replace(self, normalisers=torch.logaddexp(self.normalisers, added))

    def mean(self) -> Tensor:
        """[]: the loss of all candidates as one batch, per example."""
        everyone = torch.arange(len(self.own), device=self.own.device)
        return (
            self.pairs.softmax_normalisers(self.pairs.rows(everyone)).mean(dim=0) - self.own
        ).mean()


def rows_of(embeddings: Embeddings, rows: Tensor) -> Embeddings:
    """The embeddings of some rows, int64 [n]."""
    return replace(embeddings, image=embeddings.image[rows], text=embeddings.text[rows])
