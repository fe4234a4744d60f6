"""Scores of a super-batch's candidates, and what they become as the sub-batch grows.

``FactoredScores`` is what runs: it holds embeddings and never a B x B array. ``DenseScores`` and
``DenseSoftmaxScores`` hold the matrix; they are the specification that it is tested against.
``ExampleScores`` holds one number per candidate, and conditioning changes none of them.
"""

from __future__ import annotations

import math
import warnings
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.ops.dispatch import Pairs, pairs
from jest_loader.ops.reference import all_logits, exact, exact_dtype
from jest_loader.protocols import Embeddings, Loss, Scores

_Side = TypeVar("_Side", Embeddings, Tensor)

# Rounding a unit row to bf16 moves its norm by 0.4 % at most.
_NORM_TOLERANCE = 0.05

# The most, in logits, that rounding the two embeddings of a pair may move it by without a warning:
# scale 512 for fp16 and 64 for bf16.
_MAX_ROUNDING = 0.5


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
        return ExampleScores(_excluding(self.logits, chosen))

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


class DenseScores:
    """Scores that are sums over pairs, with the matrix: Algorithm 1 of arXiv 2406.17711.

    Args:
        pairwise: Floating [B, B], the score s_ij of image i with text j; for learnability the
            learner's loss less the reference's. The diagonal holds each candidate's score on its
            own.

    Raises:
        ValueError: if ``pairwise`` is not a square floating-point matrix.
    """

    def __init__(self, pairwise: Tensor) -> None:
        _check_square("pairwise", pairwise)
        self._pairwise = pairwise
        self.logits = pairwise.diagonal()

    def given(self, chosen: Tensor) -> DenseScores:
        """The scores once ``chosen`` (int64 [n]) are in the sub-batch."""
        out = copy(self)
        added = self._pairwise[chosen].sum(dim=0) + self._pairwise[:, chosen].sum(dim=1)
        out.logits = _excluding(self.logits + added, chosen)
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
        learner: Floating [B, B], the logit of image i with text j; None leaves the learner's loss
            out.
        reference: The same of the reference model, whose loss is subtracted; None leaves it out.

    Raises:
        ValueError: if both are None, or one is not a square floating-point matrix.
    """

    needs_context = True

    def __init__(self, learner: Tensor | None = None, reference: Tensor | None = None) -> None:
        self._signed = _signed(learner, reference)
        for _, logits in self._signed:
            _check_square("logits", logits)
        self._chosen = torch.empty(0, dtype=torch.int64, device=self._signed[0][1].device)

    @property
    def logits(self) -> Tensor:
        """Floating [B]."""
        total = sum(sign * self._loss(logits) for sign, logits in self._signed)
        return _excluding(torch.as_tensor(total), self._chosen)

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
        signed = _signed(learner, reference)
        _check_sides(learner, reference, loss)
        start = _SigmoidLoss.start if loss == "sigmoid" else _SoftmaxLoss.start
        self._fused = fused
        self._losses = [(sign, start(pairs(side, fused=fused))) for sign, side in signed]
        self._taken = torch.zeros(
            len(signed[0][1].image), dtype=torch.bool, device=signed[0][1].image.device
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


def check_loss(loss: Loss) -> None:
    """Raise ``ValueError`` unless ``loss`` is one that we can score."""
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'sigmoid' or 'softmax', got {loss!r}")


def _signed(learner: _Side | None, reference: _Side | None) -> list[tuple[int, _Side]]:
    signed = [(sign, side) for sign, side in ((1, learner), (-1, reference)) if side is not None]
    if not signed:
        raise ValueError("scores need a learner, a reference or both, got neither")
    return signed


def _check_sides(learner: Embeddings | None, reference: Embeddings | None, loss: Loss) -> None:
    if learner is not None and reference is not None:
        if len(learner.image) != len(reference.image):
            raise ValueError(
                "learner and reference must embed the same candidates, "
                f"got {len(learner.image)} and {len(reference.image)}"
            )
        if learner.image.device != reference.image.device:
            raise ValueError(
                "learner and reference embeddings must be on one device, "
                f"got {learner.image.device} and {reference.image.device}; "
                "CachedReference takes device="
            )
    for name, side in (("learner", learner), ("reference", reference)):
        if side is None:
            continue
        if loss == "sigmoid" and side.bias is None:
            raise ValueError(
                f"the sigmoid loss needs a logit bias, but the {name}'s embeddings have none; "
                "use loss='softmax' for a softmax model, or give Embeddings a bias"
            )
        _check_range(name, side)


def _check_range(name: str, side: Embeddings) -> None:
    """Refuse a scale or norms that make no logits; warn where the dtype is too coarse for them.

    Rows that are not finite pass: they are one candidate's fault, and selection finds them.
    """
    norms = torch.stack(
        [
            torch.linalg.vector_norm(rows.detach(), dim=1, dtype=exact_dtype(rows.dtype))
            for rows in (side.image, side.text)
        ]
    )
    off = ((norms - 1).abs() > _NORM_TOLERANCE) & torch.isfinite(norms)
    bias = 0.0 if side.bias is None else side.bias
    scalars = [
        torch.as_tensor(value).detach().to(norms).reshape(()) for value in (side.scale, bias)
    ]
    num_off, scale, bias = torch.stack([off.sum().to(norms), *scalars]).tolist()  # The one wait.
    if num_off > 0:
        which, row = off.nonzero()[0].tolist()
        raise ValueError(
            f"embeddings must have rows of unit norm, but {num_off:.0f} of the {name}'s have not "
            f"(row {row} of its {('image', 'text')[which]} embeddings has norm "
            f"{norms[which, row].item():.3g}); use torch.nn.functional.normalize(rows, dim=1)"
        )
    if not 0 < scale < math.inf or not math.isfinite(bias):
        raise ValueError(
            "an embedder's scale must be positive and finite and its bias finite, "
            f"got {scale} and {bias} from the {name}; the scale is exp of what CLIP trains"
        )
    warn_if_coarse(name, replace(side, scale=scale))


def warn_if_coarse(name: str, side: Embeddings) -> None:
    """Warn where rounding to the embeddings' dtype may change what is selected."""
    eps = torch.finfo(side.image.dtype).eps
    if not float(side.scale) * eps > _MAX_ROUNDING:
        return
    warnings.warn(
        f"the {name}'s embeddings are {side.image.dtype}, which is too coarse beyond scale "
        f"{_MAX_ROUNDING / eps:g}: its logits may be off by more than {_MAX_ROUNDING}, which "
        "changes what is selected; give them a finer dtype",
        stacklevel=5,
    )


def rows_of(embeddings: Embeddings, rows: Tensor) -> Embeddings:
    """The embeddings of some rows, int64 [n]."""
    return replace(embeddings, image=embeddings.image[rows], text=embeddings.text[rows])


def _check_square(name: str, matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.is_floating_point():
        raise ValueError(
            f"{name} must be a square floating-point matrix, "
            f"got shape {tuple(matrix.shape)} of {matrix.dtype}"
        )


def _excluding(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.index_fill(0, chosen, -torch.inf)
