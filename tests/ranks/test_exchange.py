"""Rows move between ranks, and rows that are skipped are replaced."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from jest_loader import (
    ExampleScores,
    JestDataset,
    JointSelector,
    RaggedBytes,
    SkipRowsError,
    TopKSelector,
)
from jest_loader.batch import take
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.exchange import even_out
from jest_loader.ranks.ranks import ranks_of
from jest_loader.ranks.roll_call import RankError
from jest_loader.testing import batches_equal, simulate_ranks
from tests.helpers import jest_dataset
from tests.ranks.builders import dataset


def test_rows_of_every_kind_move():
    number = 24

    def rows(start: int, stop: int) -> dict[str, Any]:
        found = np.arange(start, stop)
        ragged = np.empty(len(found), dtype=object)
        for row, each in enumerate(found):
            ragged[row] = np.full((each % 3, 2), each, np.float32)
        return {
            "number": torch.as_tensor(found),
            "half": torch.as_tensor(found).half()[:, None, None].expand(-1, 2, 3),
            "array": found.astype("datetime64[s]"),
            "text array": np.array([f"ä{each}" * (each % 4 + 1) for each in found]),
            "ragged": ragged,
            "bytes": RaggedBytes([bytes([each]) * (each % 5) for each in found]),
            "nested": (
                [torch.as_tensor(found).bool(), {"deep": found}],
                [f"row {each}" for each in found],
                tuple(b"x" * each for each in found),
            ),
            "plain": [int(each) if each % 2 else None for each in found],
        }

    def run(group):
        candidates = rows(8 * group.rank, 8 * group.rank + 8)
        if group.rank == 2:  # Columns move by name.
            candidates = dict(reversed(candidates.items()))
        chosen = [[0, 1, 6, 3, 4, 5, 7], [], [3, 2]][group.rank]
        index = torch.tensor(chosen, dtype=torch.int64)
        agreement = Agreement(ranks_of(group))
        return take(*even_out(candidates, index, [7, 0, 2], agreement))

    found = simulate_ranks(3, run)
    assert [batch["number"].tolist() for batch in found] == [[0, 1, 6], [4, 5, 7], [19, 18, 3]]
    everything = rows(0, number)
    for batch in found:
        in_order = {name: batch[name] for name in everything}
        assert batches_equal(in_order, take(everything, batch["number"]))


def errors_of_moving(*columns: dict[str, Any]) -> list[str]:
    """What two ranks, each with its columns, raise where rank 0 chose both rows, rank 1 none."""

    def run(group):
        candidates = {"number": torch.arange(2), **columns[group.rank]}
        index = torch.arange(2 * (1 - group.rank))
        with pytest.raises((ValueError, RankError)) as raised:
            even_out(candidates, index, [2, 0], Agreement(ranks_of(group)))
        return str(raised.value)

    return simulate_ranks(2, run)


def test_what_cannot_move_is_refused():
    sets = {"set": [{1}, {2}]}
    ended = errors_of_moving(sets, sets)
    assert "got a set; use quota='equal'" in ended[0]
    assert "rank 0 of 2 failed while packing rows for other ranks" in ended[1]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"c": torch.arange(2)},
            "column ['b'] is absent on this rank and tensor of int64 rows () on",
        ),
        (
            {"b": torch.arange(2)[:, None]},
            "column ['b'] is tensor of int64 rows (1,) on this rank and",
        ),
        ({"b": torch.arange(2).int()}, "column ['b'] is tensor of int32 rows () on this rank and"),
        ({}, "column ['b'] is absent on this rank"),
    ],
)
def test_rows_of_other_columns_are_refused(others, message):
    ended = errors_of_moving({"b": torch.arange(2)}, others)
    assert message in ended[1]
    assert "rank 1 of 2 failed while taking rows from other ranks" in ended[0]


def test_a_bad_row_is_replaced_by_its_rank_alone(folder):
    def run(group, quota):
        refused = []

        def materialize(batch):
            bad = [row for row, number in enumerate(batch["number"]) if number % 9 == 0]
            if bad:
                refused.extend(batch["number"][bad].tolist())
                raise SkipRowsError(dict.fromkeys(bad, "torn"))
            return batch

        loader = dataset(folder, group, 2, quota, materialize=materialize, max_skipped_fraction=0.5)
        found = [batch["number"].tolist() for batch in loader]
        return found, loader.state_dict(), refused

    for quota in ("equal", "global"):
        ended = simulate_ranks(2, lambda group, quota=quota: run(group, quota))
        assert ended[0][1] == ended[1][1]
        assert ended[0][1]["counts"]["skipped"] == sum(len(refused) for *_, refused in ended) > 0
        for step in zip(*(found for found, *_ in ended), strict=True):
            together = step[0] + step[1]
            assert [len(each) for each in step] == [6, 6]
            assert not [number for number in together if number % 9 == 0]


@dataclass(frozen=True)
class ByRank:
    """The lower the number the better, and all of rank 0 better than all others."""

    rank: int
    finite: int = 24

    def score(self, super_batch):
        scores = 100.0 * (self.rank == 0) - super_batch["number"] % 24
        scores[self.finite :] = torch.nan
        return ExampleScores(scores)


def by_rank(group, **options: Any) -> JestDataset:
    """The best 12 of 48 are the first of rank 0, which passes half of them on."""
    return jest_dataset(
        [{"number": torch.arange(24) + 24 * group.rank}],
        ByRank(group.rank, options.pop("finite", 24)),
        options.pop("selector", TopKSelector(quota="global")),
        group=group,
        super_batch_size=24,
        sub_batch_size=6,
        max_skipped_fraction=1.0,
        **options,
    )


def test_a_row_that_was_passed_on_does_not_replace_a_bad_one():
    def run(group):
        def materialize(batch):
            bad = [row for row, number in enumerate(batch["number"]) if number == 3]
            if bad:
                raise SkipRowsError(dict.fromkeys(bad, "torn"))
            return batch

        return next(iter(by_rank(group, materialize=materialize)))["number"].tolist()

    assert simulate_ranks(2, run) == [[0, 1, 2, 12, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_too_few_finite_scores_over_all_ranks_end_all_with_an_error():
    def run(group):
        try:
            return list(by_rank(group, finite=10 if group.rank == 0 else 1))
        except (ValueError, RankError) as error:
            return f"{type(error).__name__}: {error}"

    first, second = simulate_ranks(2, run)
    assert "ValueError: a sub-batch of 11 needs as many candidates with finite scores" in first
    assert "RankError: rank 0 of 2 failed while selecting" in second


def test_a_rank_with_fewer_usable_candidates_than_its_share_ends_all():
    """With equal quotas no other rank can make up for it."""

    def run(group):
        selector = JointSelector(4)
        try:
            return list(by_rank(group, finite=5 if group.rank == 0 else 24, selector=selector))
        except (ValueError, RankError) as error:
            return f"{type(error).__name__}: {error}"

    first, second = simulate_ranks(2, run)
    assert "ValueError: a sub-batch of 6 needs as many candidates with finite scores" in first
    assert "but 1 had none" in first
    assert "RankError: rank 0 of 2 failed while selecting" in second


def test_a_rank_with_just_its_share_of_usable_candidates_gives_them_all():
    def run(group):
        batches = by_rank(group, finite=6 if group.rank == 0 else 24, selector=JointSelector(4))
        return sorted(next(iter(batches))["number"].tolist())

    first, second = simulate_ranks(2, run)
    assert first == [0, 1, 2, 3, 4, 5]
    assert len(second) == 6
