"""From a super-batch to its sub-batch: score, select, materialize, and leave out what is bad."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jest_loader.batch import Batch, take
from jest_loader.loader.telemetry import Batchable, Counts, Measured, Stopwatch, Worth
from jest_loader.protocols import Scorer, Scores, Selector
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.exchange import even_out
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Ranks
from jest_loader.scoring.scores import ExampleScores, rows_of
from jest_loader.selecting.drawing import check_finite
from jest_loader.selecting.selectors import (
    IndependentSelector,
    JointSelector,
    UniformSelector,
    moves_rows,
)
from jest_loader.skipped import SkipRowsError, listed, named, skip_budget

_NUM_SHOWN = 10  # Rows that are none, of those that a message names.


class Choice(NamedTuple):
    """A sub-batch as it is handed out, the same rows as they were scored, and what was measured."""

    sub_batch: Any
    chosen: Batch
    measured: Measured


@dataclass(frozen=True)
class Chooser:
    """Chooses sub-batches; the arguments are those of ``JestDataset``, and how its ranks agree."""

    scorer: Scorer | None
    selector: Selector
    materialize: Callable[[Batch], Any] | None
    emit: tuple[str, ...]
    super_batch_size: int
    sub_batch_size: int
    max_skipped_fraction: float
    agreement: Agreement = field(default_factory=lambda: Agreement(Ranks()))

    def choose(self, candidates: Batch, *, key: int) -> Choice:
        """The sub-batch of a super-batch.

        Raises:
            ValueError: if scorer or selector break their promises, or more candidates are bad than
                ``max_skipped_fraction`` of the super-batch.
            RankError: if another rank failed.
        """
        times, ranks = Stopwatch(), self.agreement.ranks
        with self.agreement.step("scoring"):
            scores = self._score(candidates, times)
            skipped = _without_score(scores)
            self._check_budget(skipped, candidates)
        moves = ranks.size > 1 and moves_rows(self.selector)
        with self.agreement.step("selecting") as selecting:
            with torch.no_grad(), times.time("selecting", on_device=True):
                joined = RankScores(scores, ranks)
                drawn = self.selector.select(joined, self.sub_batch_size, key=key)
            index = _checked(drawn, None if moves else self.sub_batch_size, self.super_batch_size)
            selecting.number = len(index)
        gone = {*index.tolist(), *skipped}  # What is not to be drawn again, wherever it goes.
        if moves:
            candidates, index = even_out(candidates, index, selecting.everyones, self.agreement)
        with times.time("materializing"):
            chosen, sub_batch = self._materialized(
                candidates, scores, index, gone, skipped, key=key
            )
        with torch.no_grad():
            if self.emit and self.scorer is not None:
                sub_batch = _with_reference(sub_batch, scores, index)
            worth = self._worth(scores, index, key)
        if skipped:
            logging.getLogger(__name__).warning(
                "skipped %d of %d candidates: %s",
                len(skipped),
                self.super_batch_size,
                listed(named(skipped, candidates)),
            )
        counts = Counts(
            loaded=self.super_batch_size,
            scored=0 if self.scorer is None else self.super_batch_size,
            trained=self.sub_batch_size,
            skipped=len(skipped),
        )
        return Choice(
            sub_batch,
            chosen,
            Measured(counts, tuple(named(skipped, candidates).values()), times, worth),
        )

    def _materialized(
        self,
        candidates: Batch,
        scores: Scores,
        index: Tensor,
        gone: set[int],
        skipped: dict[int, str],
        key: int,
    ) -> tuple[Batch, Any]:
        """The chosen rows and what is made of them; replaces bad ones in ``index``."""
        while True:
            chosen = take(candidates, index)
            try:
                sub_batch = chosen if self.materialize is None else self.materialize(chosen)
            except SkipRowsError as error:
                bad = _bad_rows(error, self.sub_batch_size)
                skipped |= {int(index[row]): error.reasons[row] for row in bad}
                self._check_budget(skipped, candidates)
                self._check_left(gone, len(bad), skipped, candidates)
                with torch.no_grad():
                    index[bad] = self._spare(scores, gone, len(bad), key)
                gone |= set(index[bad].tolist())
                continue
            if sub_batch is None:
                raise ValueError("materialize must return the sub-batch, got None; add a return")
            return chosen, sub_batch

    def _worth(self, scores: Scores, index: Tensor, key: int) -> Worth:
        """What the sub-batch's score and its overlap with other selections are made of."""
        own = index[index < self.super_batch_size]  # Other ranks' rows have no scores here.
        chosen = own.to(scores.logits.device)
        if self.scorer is None or not isinstance(scores, Batchable) or not len(own):
            return Worth()
        alone = RankScores(scores, self.agreement.ranks.apart())
        uniform = UniformSelector().select(alone, self.sub_batch_size, key=key)
        overlap = None
        if isinstance(self.selector, JointSelector) and not getattr(scores, "needs_context", False):
            independent = IndependentSelector(self.selector.gain)
            others = independent.select(alone, self.sub_batch_size, key=key)
            overlap = torch.zeros_like(scores.logits).index_fill(0, others, 1.0)[chosen].mean()
        return Worth(scores.rows(chosen), scores.rows(uniform), overlap)

    def _score(self, candidates: Batch, times: Stopwatch) -> Scores:
        if self.scorer is None:
            return ExampleScores(torch.zeros(self.super_batch_size))
        with torch.no_grad(), times.time("scoring", on_device=True):
            scores = self.scorer.score(candidates)
        if not isinstance(scores, Scores):
            raise ValueError(
                f"a scorer must return Scores, got {type(scores).__name__}; "
                "ExampleScores(values) makes them of one number per candidate"
            )
        if len(scores.logits) != self.super_batch_size:
            raise ValueError(
                "a scorer must return one score per candidate, "
                f"got {len(scores.logits)} for {self.super_batch_size}"
            )
        return scores

    def _spare(self, scores: Scores, gone: set[int], size: int, key: int) -> Tensor:
        """What the selector takes next, in place of ``size`` chosen ones that turned out bad.

        Given what was chosen, the bad ones and those passed on to other ranks too: so they are not
        drawn again. Those without a finite score are not drawn anyway, and would spoil the others'
        scores. Of several ranks only one lacks a row, which it takes from its own candidates
        without the others.
        """
        finite = torch.isfinite(scores.logits).tolist()
        chosen = torch.tensor(sorted(row for row in gone if finite[row]))
        alone = RankScores(scores, self.agreement.ranks.apart())
        given = alone.given(chosen.to(scores.logits.device))
        spare = _checked(self.selector.select(given, size, key=key), size, self.super_batch_size)
        if gone & set(spare.tolist()):
            raise ValueError(
                f"{type(self.selector).__name__} must not take candidates whose logits are minus "
                "infinity, but did; they were chosen already"
            )
        return spare

    def _check_left(
        self, gone: set[int], size: int, skipped: dict[int, str], candidates: Batch
    ) -> None:
        left = self.super_batch_size - len(gone)
        if left < size:
            raise ValueError(
                f"{size} of the sub-batch's examples are bad and must be replaced, but only {left} "
                f"usable candidates are left: {listed(named(skipped, candidates))}; mend the data, "
                "or use a larger super_batch_size"
            )

    def _check_budget(self, skipped: dict[int, str], candidates: Batch) -> None:
        budget = skip_budget(self.super_batch_size, self.max_skipped_fraction)
        if len(skipped) > budget:
            raise ValueError(
                f"at most {budget} of {self.super_batch_size} candidates may be skipped, but "
                f"{len(skipped)} must be: {listed(named(skipped, candidates))}; mend the data or "
                "the models, or raise max_skipped_fraction"
            )


def _bad_rows(error: SkipRowsError, size: int) -> list[int]:
    """The rows that ``materialize`` called bad, once they are known to be rows."""
    rows = list(error.reasons)
    if any(type(row) is not int or not 0 <= row < size for row in rows):
        raise ValueError(
            f"materialize must name bad rows by their numbers in the sub-batch, from 0 to "
            f"{size - 1}, got {rows[:_NUM_SHOWN]}"
        ) from error
    return sorted(rows)


def _without_score(scores: Scores) -> dict[int, str]:
    """Candidates whose score is not finite, which selectors do not draw."""
    rows = (~torch.isfinite(scores.logits)).nonzero()[:, 0].tolist()
    return dict.fromkeys(rows, "its score is not finite")


def _with_reference(sub_batch: Any, scores: Scores, index: Tensor) -> Any:
    reference = getattr(scores, "reference", None)
    if not isinstance(sub_batch, dict) or reference is None:
        raise ValueError(
            "emit=('reference',) needs sub-batches that are dicts and scores with a reference's "
            f"embeddings, got {type(sub_batch).__name__} and {type(scores).__name__}"
        )
    if "reference" in sub_batch:
        raise ValueError(
            "emit=('reference',) adds a column of that name, but the sub-batch has one already; "
            "rename it in materialize"
        )
    rows = rows_of(reference, index.to(reference.image.device))
    return {**sub_batch, "reference": rows}


def _checked(index: object, size: int | None, num_candidates: int) -> Tensor:
    """The index on the host. Selectors and scores are pluggable: check what they agreed on.

    Args:
        index: What a selector returned.
        size: How many it should have; None for any number, where ranks even out.
        num_candidates: Among how many.
    """
    if not isinstance(index, Tensor):
        raise ValueError(f"a selector must return an int64 tensor, got {type(index).__name__}")
    host = index.cpu().clone()  # Rows that turn out bad are replaced in it.
    size = len(host) if size is None else size
    if host.shape != (size,) or host.dtype != torch.int64:
        raise ValueError(
            f"a selector must return int64 of shape ({size},), "
            f"got {host.dtype} of {tuple(host.shape)}"
        )
    check_finite(host)
    rows = host.tolist()
    if len(set(rows)) != size or any(not 0 <= row < num_candidates for row in rows):
        raise ValueError(
            f"a selector must return distinct rows in [0, {num_candidates}), but did not; "
            "Scores.given must set the logits of chosen candidates to minus infinity"
        )
    return host
