"""Scores of a super-batch's candidates, and what they become as the sub-batch grows.

``FactoredScores`` is what runs: it holds embeddings and never a B x B array. The scores in
``dense`` hold the matrix: the specification that ``FactoredScores`` is tested against.
``ExampleScores`` holds one number per candidate, and conditioning changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.embeddings import Embeddings
from jest_loader.ops.dispatch import Pairs, pairs
from jest_loader.ops.plain import Groups, all_logits, exact
from jest_loader.protocols import Loss, Scores
from jest_loader.scoring.dense import DenseScores, DenseSoftmaxScores, excluding, signed
from jest_loader.scoring.embedding_checks import check_groups, check_loss, check_sides


class ExampleScores:
    """One score per candidate, such as RHO-LOSS's reducible loss (arXiv 2206.07137).

    Args:
        values: Floating [B], higher is drawn more often. A candidate whose value is NaN is skipped.
        skipped: Why candidates have no value, by row.

    Raises:
        ValueError: if ``values`` is not a floating-point vector.
    """

    def __init__(self, values: Tensor, skipped: Mapping[int, str] | None = None) -> None:
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
        self.skipped = skipped or {}

    def given(self, chosen: Tensor) -> ExampleScores:
        """The same scores, minus infinity at ``chosen`` (int64 [n])."""
        return ExampleScores(excluding(self.logits, chosen), self.skipped)

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
        """The same scores, minus infinity at ``chosen`` (int64 [n])."""
        return self.given(chosen)


class FactoredScores:
    """Scores from the embeddings of a learner, a reference or both; never holds a B x B array.

    With both it is learnability, the learner's loss less the reference's; with the reference
    alone, easy reference; with the learner alone, hard learner (arXiv 2406.17711). ``skipped`` has
    the reasons that both sides give for candidates without embeddings, by row.

    Args:
        learner: Embeddings of the B candidates by the model being trained.
        reference: Embeddings of the same candidates by the reference model; the width may differ.
        loss: ``"sigmoid"`` (SigLIP: a sum over pairs) or ``"softmax"`` (CLIP: a running
            log-sum-exp).
        groups: Int64 [B], an id of each candidate; different candidates with equal ids are not
            each other's negatives: the losses have no terms for them. None makes all others
            negatives.
        fused: Whether Triton kernels compute the sums. None uses them on a CUDA GPU that has bf16,
            where Triton is installed and the embeddings are not fp64.

    Raises:
        ValueError: if neither is given, they differ in count or device, a sigmoid score lacks a
            bias, ``groups`` has not one id per candidate, or ``fused`` is True where the kernels
            cannot run.
    """

    def __init__(
        self,
        learner: Embeddings | None = None,
        reference: Embeddings | None = None,
        loss: Loss = "sigmoid",
        *,
        groups: Tensor | None = None,
        fused: bool | None = None,
    ) -> None:
        check_loss(loss)
        sides = signed(learner, reference)
        check_sides(learner, reference, loss)
        first = sides[0][1].image
        check_groups(groups, len(first))
        start = _SigmoidLoss.start if loss == "sigmoid" else _SoftmaxLoss.start
        # Of a candidate that both skip, the learner's reason.
        self.skipped = {row: text for _, side in sides[::-1] for row, text in side.skipped.items()}
        self._fused = fused
        self._losses = [(sign, start(pairs(side, fused=fused))) for sign, side in sides]
        self._groups = None if groups is None else groups.to(first.device)
        self._taken = torch.zeros(len(first), dtype=torch.bool, device=first.device)

    @property
    def needs_context(self) -> bool:
        """Whether all candidates are equal until some are chosen; true of the softmax loss."""
        return isinstance(self._losses[0][1], _SoftmaxLoss)

    @property
    def logits(self) -> Tensor:
        """Float32, or float64 where the embeddings are, [B]."""
        values = [loss.value if sign > 0 else -loss.value for sign, loss in self._losses]
        return sum(values[1:], start=values[0]).masked_fill(self._taken, -torch.inf)

    def given(self, chosen: Tensor) -> FactoredScores:
        """The scores once ``chosen`` (int64 [n]) are in the sub-batch; costs O(n B D)."""
        chunks = [loss.pairs.rows(chosen) for _, loss in self._losses]
        return self._given(chosen, chunks, None if self._groups is None else self._groups[chosen])

    def share(self, chosen: Tensor) -> list[Tensor]:
        """[n, 2, D] of each model: the images and texts of ``chosen`` (int64 [n]); [n]: groups."""
        rows = [loss.pairs.rows(chosen).transpose(0, 1) for _, loss in self._losses]
        return rows if self._groups is None else [*rows, self._groups[chosen]]

    def given_shared(self, chosen: Tensor, everyones: list[Tensor]) -> FactoredScores:
        """The scores once ``chosen`` and other ranks' candidates are in the sub-batch.

        Args:
            chosen: Int64 [n], this rank's candidates that were chosen.
            everyones: The tensors of ``share`` from all ranks, joined: [m, 2, D] of each model, and
                the groups [m] if there are any.
        """
        num_models = len(self._losses)
        chunks = [rows.transpose(0, 1) for rows in everyones[:num_models]]
        groups = None if self._groups is None else everyones[num_models]
        return self._given(chosen, chunks, groups)

    def _given(
        self, chosen: Tensor, chunks: list[Tensor], chunk_groups: Tensor | None
    ) -> FactoredScores:
        out = copy(self)
        groups = self._against(chunk_groups)
        out._losses = [
            (sign, loss.given(chunk, groups))
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
        out._groups = None if self._groups is None else self._groups[chosen]
        out._taken = self._taken.new_zeros(len(chosen))
        out.skipped = {}
        return out

    def mean(self) -> Tensor:
        """[]: the score of all candidates as one batch, per example; costs O(B^2 D).

        For learnability that is the learner's loss on them less the reference's.
        """
        groups = self._against(self._groups)
        return torch.as_tensor(sum(sign * loss.mean(groups) for sign, loss in self._losses))

    @property
    def reference(self) -> Embeddings | None:
        """The reference's embeddings, in fp32 (fp64 if given in fp64); None without a reference."""
        found = [loss.pairs.embeddings for sign, loss in self._losses if sign < 0]
        return found[0] if found else None

    def dense(self) -> Scores:
        """The same scores with nothing chosen, as matrices of B x B, for small super-batches."""
        logits = {sign: all_logits(exact(loss.pairs.embeddings)) for sign, loss in self._losses}
        if self.needs_context:
            return DenseSoftmaxScores(logits.get(1), logits.get(-1), self._groups)
        eye = torch.eye(len(self._taken), dtype=torch.bool, device=self._taken.device)
        pairwise = sum(sign * softplus(torch.where(eye, -z, z)) for sign, z in logits.items())
        return DenseScores(torch.as_tensor(pairwise), self._groups)

    def _against(self, chunk_groups: Tensor | None) -> Groups | None:
        if self._groups is None or chunk_groups is None:
            return None
        return Groups(self._groups, chunk_groups)


@dataclass(frozen=True, eq=False)
class _SigmoidLoss:
    """What each candidate adds to the sigmoid loss of the chosen set."""

    pairs: Pairs
    value: Tensor

    @classmethod
    def start(cls, pairs: Pairs) -> _SigmoidLoss:
        return cls(pairs, softplus(-pairs.own_logits()))

    def given(self, chunk: Tensor, groups: Groups | None) -> _SigmoidLoss:
        return replace(self, value=self.value + self.pairs.sigmoid_loss(chunk, groups))

    def mean(self, groups: Groups | None) -> Tensor:
        """[]: the loss of all candidates as one batch, per example."""
        own = self.pairs.own_logits()
        # The sum has each pair of two candidates twice, hence half of it. It also has each
        # candidate twice as its own negative, unless groups mask that.
        everyone = torch.arange(len(own), device=own.device)
        added = self.pairs.sigmoid_loss(self.pairs.rows(everyone), groups)
        with_itself = softplus(own) if groups is None else 0.0
        return (softplus(-own) + added / 2 - with_itself).mean()


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

    def given(self, chunk: Tensor, groups: Groups | None) -> _SoftmaxLoss:
        added = self.pairs.softmax_normalisers(chunk, groups)
        return replace(self, normalisers=torch.logaddexp(self.normalisers, added))

    def mean(self, groups: Groups | None) -> Tensor:
        """[]: the loss of all candidates as one batch, per example."""
        everyone = torch.arange(len(self.own), device=self.own.device)
        normalisers = self.pairs.softmax_normalisers(self.pairs.rows(everyone), groups)
        if groups is not None:  # These mask each candidate's pair with itself too.
            normalisers = torch.logaddexp(normalisers, self.own)
        return (normalisers.mean(dim=0) - self.own).mean()


def rows_of(embeddings: Embeddings, rows: Tensor) -> Embeddings:
    """The embeddings of ``rows`` (int64 [n]), all of which must have one."""
    image, text = embeddings.image[rows], embeddings.text[rows]
    return replace(embeddings, image=image, text=text, skipped={})
