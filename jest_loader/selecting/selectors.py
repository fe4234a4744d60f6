"""Selectors: joint example selection and the baselines that it is compared with.

Of several ranks (``jest_loader.ranks.ranks``) each selects from its own candidates, conditioned on
the choices of all.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from jest_loader.checks import is_number, whole
from jest_loader.ops.noise import drawable, fold
from jest_loader.protocols import ContextScores, QuotaSelector, Scores
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Ranks
from jest_loader.selecting.drawing import Draw, best, checked, draw, perturbed

Quota = Literal["equal", "global", "local"]
"""How many each rank draws.

``"equal"``: the same number on each rank in each chunk. ``"global"``: the exact draw over all
ranks. ``"local"``: the same number, without communication.
"""


@dataclass(frozen=True, kw_only=True)
class _OverRanks:
    """What selectors over several ranks have in common."""

    quota: Quota = "equal"

    def __post_init__(self) -> None:
        if self.quota not in get_args(Quota):
            raise ValueError(
                f"quota must be 'equal', 'global' or 'local', got {self.quota!r}; 'equal' is "
                "nearly as good as 'global' and moves no rows"
            )

    def _over_ranks(self, scores: Scores, *, half: bool = False) -> RankScores:
        """The scores with the ranks that select together: this one alone, unless they say so."""
        given = scores if isinstance(scores, RankScores) else RankScores(scores, Ranks())
        given = given.alone() if self.quota == "local" else given
        return replace(given, half=half)


@dataclass(frozen=True)
class JointSelector(_OverRanks):
    """Joint example selection: Algorithm 1 of arXiv 2406.17711.

    The sub-batch grows by chunks. Each chunk is drawn with p proportional to exp(logits), where
    the logits are conditioned on all earlier chunks.

    Args:
        num_chunks: Number of draws; the paper uses 16. Where it does not divide the sub-batch
            size, the first chunks are one larger.
        gain: Factor on the logits. After the first chunk the draw is nearly greedy, because
            conditional logits grow with the chunks; a gain below 1 counters that.
        quota: How many each of several ranks draws. ``"equal"``: the same number in each
            chunk from its own candidates, given all ranks' choices. ``"global"``: the exact draw
            over all ranks' candidates; a rank that had more of them passes rows on. ``"local"``:
            the same number, given its own choices alone, which loses most of what joint selection
            gains.
        half: Whether embeddings wider than 16 bits are rounded to fp16 on their way between ranks.

    Raises:
        ValueError: if ``num_chunks`` or ``gain`` is not positive, or ``quota`` is another word.
    """

    num_chunks: int = 16
    gain: float = 1.0
    half: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("num_chunks", self.num_chunks, 1)
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Over several ranks ``scores`` are ``RankScores`` of this rank's candidates, as are the rows
        returned, and ``size`` is one rank's. With ``quota="global"`` a rank returns what it has of
        the best rows of all; the mean over ranks is ``size``.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score], or the scores
                cannot be conditioned on other ranks' choices.
            RankError: if another rank does not answer.
        """
        _check_size(scores, size)
        given = self._over_ranks(scores, half=self.half)
        if self.quota == "local" and given.ranks.size > 1:
            warnings.warn(
                f"quota='local' conditions each of {given.ranks.size} ranks on its own choice "
                "alone: where global selection had a learnability of 45.3 (and uniform 4.6), this "
                "had 28.1 at 2 ranks, 11.4 at 8 and 3.5 at 64; use quota='equal'",
                stacklevel=2,
            )
        exact = self.quota == "global" and given.ranks.joint
        total = size * given.ranks.size if exact else size
        draws: list[Draw] = []
        for chunk, chunk_size in enumerate(chunk_sizes(total, self.num_chunks)):
            if draws:
                given = given.given(draws[-1].candidates, draws[-1].counts)
            chunk_key = fold(key, chunk)
            draws.append(draw(given, chunk_size, chunk_key, gain=self.gain, exact=exact))
        return checked(draws)


@dataclass(frozen=True)
class IndependentSelector(_OverRanks):
    """Draws the sub-batch at once with p proportional to exp(logits): examples do not combine.

    Args:
        gain: Factor on the logits.
        quota: Who draws how many over several ranks. Nothing is conditioned on, so ``"local"`` is
            ``"equal"``.

    Raises:
        ValueError: if ``gain`` is not positive, or ``quota`` is another word.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score], or the scores are
                softmax scores, which are equal for all candidates until some are chosen.
        """
        _check_size(scores, size)
        _check_context(self, scores)
        # The key of a joint selector's first chunk: overlaps are measured under the same noise.
        first_key = fold(key, 0)
        return _at_once(self, scores, size, lambda given: perturbed(given, first_key, self.gain))


@dataclass(frozen=True)
class TopKSelector(_OverRanks):
    """The candidates with the highest scores, highest first; nothing random.

    Args:
        quota: Who draws how many over several ranks; ``"local"`` is ``"equal"``.

    Raises:
        ValueError: if ``quota`` is another word.
    """

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: the sub-batch, best first.

        Raises:
            ValueError: as ``IndependentSelector.select``.
        """
        _check_size(scores, size)
        _check_context(self, scores)
        return _at_once(self, scores, size, lambda given: drawable(given.logits))


@dataclass(frozen=True)
class UniformSelector(_OverRanks):
    """Draws uniformly from the candidates with a finite score: the baseline of any selection.

    Args:
        quota: Who draws how many over several ranks; ``"local"`` is ``"equal"``.

    Raises:
        ValueError: if ``quota`` is another word.
    """

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: the sub-batch, in the order drawn.

        Raises:
            ValueError: if ``size`` is not in [1, candidates with a finite score].
        """
        _check_size(scores, size)
        return _at_once(self, scores, size, lambda given: perturbed(given, fold(key, 0), 0.0))


@dataclass(frozen=True)
class GibbsSelector:
    """Gibbs sampling of p(sub-batch) proportional to exp(its score): brute force, for comparison.

    Starts from a uniform draw and redraws one example after the other, each conditioned on all
    others in the sub-batch. A sweep conditions once per example, where ``JointSelector`` conditions
    once per chunk, so this is for small super-batches. Each of several ranks selects by itself.

    Args:
        num_sweeps: How often each example is redrawn.
        gain: Factor on the logits.

    Raises:
        ValueError: if ``num_sweeps`` or ``gain`` is not positive.
    """

    num_sweeps: int = 4
    gain: float = 1.0

    def __post_init__(self) -> None:
        whole("num_sweeps", self.num_sweeps, 1)
        _check_gain(self.gain)

    def select(self, scores: Scores, size: int, *, key: int) -> Tensor:
        """Int64 [size]: the sub-batch, in no particular order.

        Raises:
            ValueError: as ``JointSelector.select``.
        """
        scores = UniformSelector(quota="local")._over_ranks(scores)
        chosen = list(UniformSelector().select(scores, size, key=key)[:, None])
        draws = {}
        for sweep, position in product(range(self.num_sweeps), range(size)):
            others = chosen[:position] + chosen[position + 1 :]
            given = scores.given(torch.cat(others)) if others else scores
            draws[position] = draw(given, 1, fold(key, sweep, position), gain=self.gain)
            chosen[position] = draws[position].candidates
        return checked(list(draws.values()))


def moves_rows(selector: object) -> bool:
    """Whether ranks choose different numbers of candidates and then even them out."""
    return isinstance(selector, QuotaSelector) and selector.quota == "global"


def chunk_sizes(size: int, num_chunks: int) -> list[int]:
    """``size`` in at most ``num_chunks`` parts that differ by one at most, larger ones first."""
    each, remainder = divmod(size, num_chunks)
    return [each + (chunk < remainder) for chunk in range(min(size, num_chunks))]


def _at_once(
    selector: _OverRanks, scores: Scores, size: int, values: Callable[[RankScores], Tensor]
) -> Tensor:
    """The sub-batch of a selector that draws once."""
    given = selector._over_ranks(scores)
    exact = selector.quota == "global" and given.ranks.joint
    total = size * given.ranks.size if exact else size
    return checked([best(values(given), total, given.ranks, exact=exact)])


def _check_size(scores: Scores, size: int) -> None:
    if not 1 <= size <= len(scores.logits):
        raise ValueError(
            f"the sub-batch must have between 1 and {len(scores.logits)} examples, the number of "
            f"candidates, got {size}"
        )


def _check_context(selector: object, scores: Scores) -> None:
    if isinstance(scores, ContextScores) and scores.needs_context:
        raise ValueError(
            f"{type(selector).__name__} cannot use softmax scores, which are equal for all "
            "candidates until some are chosen; use JointSelector, or score with loss='sigmoid'"
        )


def _check_gain(gain: float) -> None:
    if not is_number(gain) or not 0 < gain < math.inf:
        raise ValueError(f"gain must be positive and finite, got {gain!r}")
