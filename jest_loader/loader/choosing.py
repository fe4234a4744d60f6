"""From a super-batch to its sub-batch: score, select, materialize, and skip what cannot be used."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jest_loader.batch import Batch, num_examples, take
from jest_loader.loader.arguments import Arguments
from jest_loader.loader.checked_index import checked_index
from jest_loader.loader.choice import Choice
from jest_loader.loader.emitting import with_reference
from jest_loader.loader.reference_passed import is_passed
from jest_loader.loader.seen_candidates import SeenCandidates, SeenNumbers, too_few_unseen
from jest_loader.loader.super_batch import SuperBatch
from jest_loader.loader.telemetry import Counts, Measured, Stopwatch
from jest_loader.protocols import BatchScores, Scorer, Scores, SkippingScores
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.exchange import even_out
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.scoring.precision import because, without_autocast
from jest_loader.scoring.scores import ExampleScores
from jest_loader.scoring.turns import at_turn
from jest_loader.selecting.selectors import (
    IndependentSelector,
    JointSelector,
    UniformSelector,
    moves_rows,
)
from jest_loader.skipped import SkipRowsError, check_rows, listed, named, skip_budget

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chooser:
    """Chooses sub-batches for one pass.

    Args:
        arguments: The dataset's.
        agreement: The agreement of the ranks that select together.
    """

    arguments: Arguments
    agreement: Agreement

    def choose(self, super_batch: SuperBatch, scorer: Scorer | None) -> Choice:
        """The sub-batch of a super-batch, by the scorer that is given, outside autocast.

        Raises:
            ValueError: if scorer or selector break their promises, or more candidates must be
                skipped than may be.
            RankError: if another rank failed.
        """
        scorer = None if super_batch.step.uniform else at_turn(scorer, super_batch.step.key)
        with without_autocast(), self.agreement.step("choosing a sub-batch", 6) as choosing:
            choice = _Choosing(self.arguments, self.agreement, super_batch, scorer).choose()
            measured = choice.measured
            choosing.numbers = (num_examples(choice.rows), len(measured.skipped), *measured.seen)
        num_trained, num_skipped, *seen = choosing.totals
        num_loaded = self.agreement.ranks.size * super_batch.num_rows
        num_scored = 0 if scorer is None else num_loaded
        numbers = SeenNumbers(*seen)
        counts = Counts(
            num_loaded, num_scored, num_trained, skipped=num_skipped, seen=numbers.candidates
        )
        passed = is_passed(super_batch.step.number, scorer, measured, self.agreement)
        measured = replace(measured, counts=counts, passed=passed, seen=numbers)
        return choice._replace(measured=measured)


class _Choosing:
    """One sub-batch in the making, on one rank."""

    def __init__(
        self,
        arguments: Arguments,
        agreement: Agreement,
        super_batch: SuperBatch,
        scorer: Scorer | None,
    ) -> None:
        self._arguments = arguments
        self._agreement = agreement
        self._super_batch = super_batch
        self._scorer = scorer
        self._selector = arguments.selector_at(super_batch.step)
        self._moves_rows = agreement.ranks.size > 1 and moves_rows(self._selector)
        self._times = Stopwatch()
        self._skipped = dict(super_batch.skipped)  # What is wrong with each row, named.
        self._seen = SeenCandidates.among(
            super_batch.candidates,
            super_batch.num_rows,
            scorer,
            self._skipped,
            exclude=arguments.excludes_seen,
        )

    def choose(self) -> Choice:
        with self._agreement.step("scoring", 2) as scoring:
            scores = self._scored()
            usable = self._super_batch.num_rows - len(self._left_out)
            scoring.numbers = (usable, len(self._seen.excluded))
        size = self._size(scoring.everyones)
        with self._agreement.step("selecting") as selecting:
            index = self._selected(scores, size)
            selecting.numbers = (len(index),)
        gone = {*index.tolist(), *self._left_out}  # Not to be drawn again, wherever it goes.
        candidates = self._super_batch.candidates
        if self._moves_rows:
            selected = [number for (number,) in selecting.everyones]
            candidates, index = even_out(candidates, index, selected, self._agreement)
        with self._times.time("materializing"):
            rows, sub_batch, index = self._materialized(candidates, scores, index, gone)
        with torch.no_grad():
            if self._arguments.options.emit_reference and self._scorer is not None:
                sub_batch = with_reference(sub_batch, scores.local, index)
            measured = self._measured(scores, index)
        if self._skipped:
            _LOG.warning(
                "skipped %d of %d candidates: %s",
                len(self._skipped),
                self._super_batch.num_rows,
                listed(self._skipped),
            )
        return Choice(self._super_batch, sub_batch, rows, measured)

    def _scored(self) -> RankScores:
        """The scores, where rows that are left out are not to be drawn."""
        scores = self._scores()
        logits = scores.logits
        reasons = dict(scores.skipped) if isinstance(scores, SkippingScores) else {}
        if rows := (~torch.isfinite(logits)).nonzero()[:, 0].tolist():
            reasons = (
                dict.fromkeys(rows, because("its score is not finite", self._scorer)) | reasons
            )
        self._skipped = named(reasons, self._super_batch.candidates) | self._skipped
        self._check_budget()
        left_out = torch.tensor(sorted(self._left_out), dtype=torch.int64, device=logits.device)
        return RankScores(scores, self._agreement.ranks, left_out)

    def _scores(self) -> Scores:
        size = self._super_batch.num_rows
        if self._scorer is None:
            return ExampleScores(torch.zeros(size))
        with torch.no_grad(), self._times.time("scoring", on_device=True):
            try:
                scores = self._scorer.score(self._super_batch.candidates)
            except SkipRowsError as error:
                check_rows(error, size)
                reasons = named(error.reasons, self._super_batch.candidates)
                raise ValueError(
                    f"a scorer must be able to use some candidates and give the others NaN, as in "
                    f"ExampleScores(values, skipped=reasons), but it raised SkipRowsError for "
                    f"{len(reasons)} of {size}: {listed(reasons)}; mend the data or the scorer"
                ) from error
        if not isinstance(scores, Scores):
            raise ValueError(
                f"a scorer must return Scores, got {type(scores).__name__}; "
                "ExampleScores(values) makes them of one number per candidate"
            )
        if len(scores.logits) != size:
            raise ValueError(
                f"a scorer must return one score per candidate, got {len(scores.logits)} for {size}"
            )
        return scores

    @property
    def _left_out(self) -> set[int]:
        """Rows that are not to be drawn."""
        return {*self._skipped, *self._seen.excluded}

    @property
    def _may_be_short(self) -> bool:
        """Whether a sub-batch may lack rows that are skipped: where nothing is selected."""
        return isinstance(self._selector, UniformSelector)

    def _size(self, of_ranks: list[tuple[int, ...]]) -> int:
        """How many to choose on this rank, given each rank's usable and excluded candidates.

        Raises:
            ValueError: on all ranks, if too few are left on one.
        """
        size, ranks = self._arguments.sub_batch_size, self._agreement.ranks
        if self._moves_rows:  # Those of all ranks, of which each takes as many.
            usable, excluded = zip(*of_ranks, strict=True)
            of_ranks = [(sum(usable) // ranks.size, sum(excluded) // ranks.size)] * ranks.size
        for left, num_seen in of_ranks:
            if left < size and num_seen:
                raise too_few_unseen(left, size, num_seen, self._super_batch.num_rows)
        left, _ = of_ranks[ranks.rank]
        return min(size, left) if self._may_be_short else size

    def _selected(self, scores: RankScores, size: int) -> Tensor:
        """Int64 [rows], on the host: what the selector takes of this rank's candidates."""
        with torch.no_grad(), self._times.time("selecting", on_device=True):
            drawn = self._selector.select(scores, size, key=self._super_batch.step.key)
        return checked_index(drawn, None if self._moves_rows else size, self._super_batch.num_rows)

    def _materialized(
        self, candidates: Batch, scores: RankScores, index: Tensor, gone: set[int]
    ) -> tuple[Batch, Any, Tensor]:
        """The chosen rows, what is made of them, and which they are once some were replaced."""
        materialize = self._arguments.materialize
        while True:
            rows = take(candidates, index)
            try:
                sub_batch = rows if materialize is None else materialize(rows)
            except SkipRowsError as error:
                check_rows(error, len(index))
                bad = sorted(error.reasons)
                reasons = {int(index[row]): error.reasons[row] for row in bad}
                self._skipped |= named(reasons, candidates)
                self._check_budget()
                with torch.no_grad():
                    spare = self._spare(scores, gone, len(bad))
                index[bad[: len(spare)]] = spare
                gone |= set(spare.tolist())
                stays = torch.ones(len(index), dtype=torch.bool)
                stays[bad[len(spare) :]] = False
                index = index[stays]
                if not len(index):
                    raise ValueError(
                        "materialize must be able to use some of the chosen rows, but can use "
                        f"none: {listed(self._skipped)}; mend the data, or use a larger "
                        "sub_batch_size"
                    ) from error
                continue
            if sub_batch is None:
                raise ValueError("materialize must return the sub-batch, got None; add a return")
            return rows, sub_batch, index

    def _spare(self, scores: RankScores, gone: set[int], size: int) -> Tensor:
        """What the selector takes next, in place of ``size`` chosen rows that must be skipped.

        The draw is conditioned on what was chosen, on the rows being replaced and on rows sent to
        other ranks, so none of them is drawn again. Rows whose score is not finite are left out of
        the condition, since they would spoil the others' scores. Only this rank lacks rows, so it
        draws from its own candidates, without the other ranks.
        """
        left = self._super_batch.num_rows - len(gone)
        if self._may_be_short:
            size = min(size, left)
        if left < size:
            raise ValueError(
                f"{size} of the sub-batch's examples must be skipped and replaced, but only {left} "
                f"usable candidates are left: {listed(self._skipped)}; mend the data, or use a "
                "larger super_batch_size"
            )
        if size == 0:
            return torch.empty(0, dtype=torch.int64)
        finite = torch.isfinite(scores.logits).tolist()
        chosen = torch.tensor(sorted(row for row in gone if finite[row]), dtype=torch.int64)
        given = scores.alone().given(chosen.to(scores.logits.device))
        drawn = self._selector.select(given, size, key=self._super_batch.step.key)
        spare = checked_index(drawn, size, self._super_batch.num_rows)
        if gone & set(spare.tolist()):
            raise ValueError(
                f"{type(self._selector).__name__} must not take candidates whose logits are minus "
                "infinity, but did; they were chosen already"
            )
        return spare

    def _measured(self, scores: RankScores, index: Tensor) -> Measured:
        """What the sub-batch's score and its overlap with other selections are made of."""
        names = tuple(self._skipped.values())
        num_rows = self._super_batch.num_rows
        own = index[index < num_rows]  # Other ranks' rows have no scores here.
        local = scores.local
        seen = self._seen.numbers(index)
        if self._scorer is None or not isinstance(local, BatchScores) or not len(own):
            return Measured(names, self._times, seen=seen)
        chosen = own.to(local.logits.device)
        key, size = self._super_batch.step.key, len(index)
        alone = scores.alone()
        uniform = UniformSelector().select(alone, size, key=key)
        overlap = None
        if isinstance(self._selector, JointSelector) and not scores.needs_context:
            independent = IndependentSelector(self._selector.gain)
            others = independent.select(alone, size, key=key)
            overlap = torch.zeros_like(local.logits).index_fill(0, others, 1.0)[chosen].mean()
        batches = local.rows(chosen), local.rows(uniform)
        return Measured(names, self._times, *batches, overlap, seen=seen)

    def _check_budget(self) -> None:
        num_rows, fraction = (
            self._super_batch.num_rows,
            self._arguments.options.max_skipped_fraction,
        )
        budget = skip_budget(num_rows, fraction)
        if len(self._skipped) > budget:
            raise ValueError(
                f"at most {budget} of {num_rows} candidates may be skipped, but "
                f"{len(self._skipped)} must be: {listed(self._skipped)}; mend the data or the "
                "models, or raise max_skipped_fraction"
            )
