"""Scores that hold the matrix of all pairs: the specification of ``FactoredScores``."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import same_group

Side = TypeVar("Side", Embeddings, Tensor)


class DenseScores:
    """Scores that are sums over pairs, with the matrix: Algorithm 1 of arXiv 2406.17711.

    Args:
        pairwise: Floating [B, B], the score s_ij of image i with text j; for learnability the
            learner's loss less the reference's. The diagonal holds each candidate's score on its
            own.
        groups: Int64 [B], an id of each candidate; pairs of different candidates with equal ids
            count nothing. None counts all pairs.

    Raises:
        ValueError: if ``pairwise`` is not a square floating-point matrix.
    """

    def __init__(self, pairwise: Tensor, groups: Tensor | None = None) -> None:
        _check_square("pairwise", pairwise)
        self._pairwise = _without_same(pairwise, groups, 0.0)
        self.logits = self._pairwise.diagonal()

    def given(self, chosen: Tensor) -> DenseScores:
        """The scores once ``chosen`` (int64 [n]) are in the sub-batch."""
        out = copy(self)
        added = self._pairwise[chosen].sum(dim=0) + self._pairwise[:, chosen].sum(dim=1)
        out.logits = excluding(self.logits + added, chosen)
        return out

    def rows(self, chosen: Tensor) -> DenseScores:
        """The scores of ``chosen`` (int64 [n]) alone, with nothing chosen."""
        return DenseScores(self._pairwise[chosen][:, chosen])

    def mean(self) -> Tensor:
        """[]: the score of all candidates as one batch, per example."""
        return self._pairwise.sum() / len(self._pairwise)


class DenseSoftmaxScores:
    """Scores from softmax losses, with the full matrices of logits.

    A candidate's loss given a set S is its image-to-text and text-to-image cross-entropy,
    averaged, among S and itself: it is not a sum over pairs, and with S empty it is zero for every
    candidate.

    Args:
        learner: Floating [B, B], the learner's logit of image i with text j, whose loss counts;
            None for scores without a learner.
        reference: Floating [B, B], the reference's logits, whose loss is subtracted; None for
            scores without a reference.
        groups: Int64 [B], an id of each candidate; different candidates with equal ids are not
            each other's negatives. None makes all others negatives.

    Raises:
        ValueError: if both are None, or one is not a square floating-point matrix.
    """

    needs_context = True

    def __init__(
        self,
        learner: Tensor | None = None,
        reference: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        sides = signed(learner, reference)
        for _, logits in sides:
            _check_square("logits", logits)
        self._signed = [(sign, _without_same(z, groups, -torch.inf)) for sign, z in sides]
        self._chosen = torch.empty(0, dtype=torch.int64, device=self._signed[0][1].device)

    @property
    def logits(self) -> Tensor:
        """Floating [B]."""
        total = sum(sign * self._loss(logits) for sign, logits in self._signed)
        return excluding(torch.as_tensor(total), self._chosen)

    def given(self, chosen: Tensor) -> DenseSoftmaxScores:
        """The scores once ``chosen`` (int64 [n]) are in the sub-batch."""
        out = copy(self)
        out._chosen = torch.cat([self._chosen, chosen])
        return out

    def rows(self, chosen: Tensor) -> DenseSoftmaxScores:
        """The scores of ``chosen`` (int64 [n]) alone, with nothing chosen."""
        logits = {sign: logits[chosen][:, chosen] for sign, logits in self._signed}
        return DenseSoftmaxScores(logits.get(1), logits.get(-1))

    def mean(self) -> Tensor:
        """[]: the score of all candidates as one batch, per example."""
        total = sum(
            sign * ((z.logsumexp(dim=0) + z.logsumexp(dim=1)) / 2 - z.diagonal()).mean()
            for sign, z in self._signed
        )
        return torch.as_tensor(total)

    def _loss(self, logits: Tensor) -> Tensor:
        own = logits.diagonal()[:, None]
        normalisers = [
            torch.cat([own, matrix[:, self._chosen]], dim=1).logsumexp(dim=1)
            for matrix in (logits, logits.T)
        ]
        return (normalisers[0] + normalisers[1]) / 2 - own[:, 0]


def signed(learner: Side | None, reference: Side | None) -> list[tuple[int, Side]]:
    """The given sides, each with the sign of its loss in a score."""
    signed = [(sign, side) for sign, side in ((1, learner), (-1, reference)) if side is not None]
    if not signed:
        raise ValueError("scores need a learner, a reference or both, got neither")
    return signed


def _without_same(matrix: Tensor, groups: Tensor | None, value: float) -> Tensor:
    """The matrix with ``value`` where two different candidates have equal ids."""
    return matrix if groups is None else matrix.masked_fill(same_group(groups), value)


def _check_square(name: str, matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.is_floating_point():
        raise ValueError(
            f"{name} must be a square floating-point matrix, "
            f"got shape {tuple(matrix.shape)} of {matrix.dtype}"
        )


def excluding(logits: Tensor, chosen: Tensor) -> Tensor:
    """The logits with minus infinity at ``chosen``."""
    return logits.index_fill(0, chosen, -torch.inf)
