"""Selectors: joint example selection and the baselines that it is compared with.

Drawing without replacement with p proportional to exp(logits) is the same as taking the largest of
``logits + Gumbel noise`` (Gumbel-top-k; Vieira 2014, Kool et al. arXiv 1903.06059). It needs no
normaliser, so it neither overflows nor runs out of non-zero probabilities. A candidate without a
finite score is not drawn.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from jest_loader.checks import whole
from jest_loader.ops.dispatch import gumbel
from jest_loader.ops.noise import fold
from jest_loader.protocols import Scores

_NOT_DRAWABLE = 1 << 62


@dataclass(frozen=True)
class JointSelector:
    """Joint example selection: Algorithm 1 of arXiv 2406.17711.

    The sub-batch grows by chunks. Each chunk is drawn with p proportional to exp(logits), where
    the logits are conditioned on all earlier chunks.

    Args:
        num_chunks: Number of draws; the paper uses 16. Where it does not divide the sub-batch
            size, the first chunks are one larger.
        gain: Factor on the logits. After the first chunk the draw is nearly greedy, because
            conditional logits grow with the chunks; a gain below 1 counters that.

    Raises:
        ValueError: if ``num_chunks`` or ``gain`` is not positive.
    """

    num_chunks: int = 16
    gain: float = 1.0

    def __post_init__(self) -> None:
        whole("num_chunks", self.num_chunks, 1)
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score].
        """
        _check_size(scores, size)
        draws: list[_Draw] = []
        for chunk, chunk_size in enumerate(chunk_sizes(size, self.num_chunks)):
            if draws:
                scores = scores.given(draws[-1].candidates)
            draws.append(_draw(scores.logits * self.gain, chunk_size, fold(seed, step, chunk)))
        return _checked(draws)


@dataclass(frozen=True)
class IndependentSelector:
    """Draws the sub-batch at once with p proportional to exp(logits): examples do not combine.

    Args:
        gain: Factor on the logits.

    Raises:
        ValueError: if ``gain`` is not positive.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score], or the scores are
                softmax scores, which are equal for all candidates until some are chosen.
        """
        _check_size(scores, size)
        _check_context(self, scores)
        return _checked([_draw(scores.logits * self.gain, size, fold(seed, step, 0))])


@dataclass(frozen=True)
class TopKSelector:
    """The candidates with the highest scores, highest first; nothing random."""

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: the sub-batch, best first.

        Raises:
            ValueError: as ``IndependentSelector.select``.
        """
        _check_size(scores, size)
        _check_context(self, scores)
        return _checked([_Draw(*_drawable(scores.logits).topk(size))])


@dataclass(frozen=True)
class UniformSelector:
    """Draws whatever the scores, if they are finite: the baseline of the same super-batch."""

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score].
        """
        _check_size(scores, size)
        return _checked([_draw(0 * scores.logits, size, fold(seed, step, 0))])


@dataclass(frozen=True)
class GibbsSelector:
    """Gibbs sampling of p(sub-batch) proportional to exp(its score): brute force, for comparison.

    Starts from a uniform draw and redraws one example after the other, each conditioned on all
    others in the sub-batch. A sweep conditions as often as the sub-batch has examples, where
    ``JointSelector`` does so once per chunk: a reference for small super-batches.

    Args:
        num_sweeps: Times that each example is redrawn.
        gain: Factor on the logits.

    Raises:
        ValueError: if ``num_sweeps`` or ``gain`` is not positive.
    """

    num_sweeps: int = 4
    gain: float = 1.0

    def __post_init__(self) -> None:
        whole("num_sweeps", self.num_sweeps, 1)
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, seed: int, step: int) -> Tensor:
        """Int64 [size]: the sub-batch, in no particular order.

        Raises:
            ValueError: as ``JointSelector.select``.
        """
        chosen = list(UniformSelector().select(scores, size, seed=seed, step=step)[:, None])
        draws = {}
        for sweep, position in product(range(self.num_sweeps), range(size)):
            others = chosen[:position] + chosen[position + 1 :]
            given = scores.given(torch.cat(others)) if others else scores
            key = fold(seed, step, sweep, position)
            draws[position] = _draw(given.logits * self.gain, 1, key)
            chosen[position] = draws[position].candidates
        return _checked(list(draws.values()))


def chunk_sizes(size: int, num_chunks: int) -> list[int]:
    """``size`` in at most ``num_chunks`` parts that differ by one at most, larger ones first."""
    each, remainder = divmod(size, num_chunks)
    return [each + (chunk < remainder) for chunk in range(min(size, num_chunks))]


class _Draw(NamedTuple):
    """What was drawn: the scores with their noise, and the candidates."""

    perturbed: Tensor
    candidates: Tensor


def _draw(logits: Tensor, size: int, key: int) -> _Draw:
    logits = _drawable(logits)
    noise = gumbel(key, len(logits), dtype=logits.dtype, device=logits.device)
    return _Draw(*(logits + noise).topk(size))


def _drawable(logits: Tensor) -> Tensor:
    """In fp32 or fp64; what is not finite is never drawn, as what was drawn already."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.where(torch.isfinite(logits), -torch.inf)


def _checked(draws: list[_Draw]) -> Tensor:
    """The candidates drawn, in order; refuses any that was drawn though none was left to draw."""
    index = torch.cat([draw.candidates for draw in draws])
    drawable = torch.isfinite(torch.cat([draw.perturbed for draw in draws]))
    index = torch.where(drawable, index, index + _NOT_DRAWABLE)
    if index.is_cpu:
        check_finite(index)
    return index


def check_finite(index: Tensor) -> None:
    """Refuse a sub-batch for which too few candidates had a finite score.

    On the CPU selectors do this themselves. On an accelerator they would have to wait for it, so
    there they return a row that should not have been drawn plus 2^62, which no super-batch has;
    ``JestDataset`` looks once it has brought the index to the host.

    Raises:
        ValueError: if ``index`` holds such a row.
    """
    rows = sorted((index[index >= _NOT_DRAWABLE] - _NOT_DRAWABLE).tolist())
    if rows:
        raise ValueError(
            f"a sub-batch of {len(index)} needs as many candidates with finite scores, but "
            f"{len(rows)} had none (the first at row {rows[0]} of the super-batch); check the "
            "models' embeddings and scale"
        )


def _check_size(scores: Scores, size: int) -> None:
    if not 1 <= size <= len(scores.logits):
        raise ValueError(
            f"the sub-batch must have between 1 and {len(scores.logits)} examples, the number of "
            f"candidates, got {size}"
        )


def _check_context(selector: object, scores: Scores) -> None:
    if getattr(scores, "needs_context", False):
        raise ValueError(
            f"{type(selector).__name__} cannot use softmax scores, which are equal for all "
            "candidates until some are chosen; use JointSelector, or score with loss='sigmoid'"
        )


def _check_gain(gain: float) -> None:
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}")
