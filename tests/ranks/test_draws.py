"""Ranks together draw what one process draws from all candidates."""

import pytest
import torch
import torch.distributed as dist

from jest_loader import (
    DenseScores,
    ExampleScores,
    FactoredScores,
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.ops.noise import fold
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Ranks, ranks_of
from jest_loader.selecting.drawing import draw
from jest_loader.testing import simulate_ranks
from tests.processes import launch
from tests.ranks.builders import CASES, LOSSES, dealt, picks, sides


def picked_by_process(rank: int, num_ranks: int) -> list[list[list[int]]]:
    others = [("sigmoid", seed) for seed in range(4)]
    return [
        picks(rank, num_ranks, JointSelector(4, quota="global"), CASES),
        picks(rank, num_ranks, IndependentSelector(quota="global"), others),
        picks(rank, num_ranks, TopKSelector(quota="global"), others),
        picks(rank, num_ranks, UniformSelector(quota="global"), others),
    ]


@pytest.mark.parametrize(
    "num_ranks",
    [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)],
)
def test_processes_with_global_quota_pick_what_one_process_picks(num_ranks):
    expected = picked_by_process(0, 1)
    ended = launch(num_ranks, picked_by_process, num_ranks)
    assert [one.error for one in ended] == [None] * num_ranks
    for selector, wanted in enumerate(expected):
        for case, alone in enumerate(wanted):
            together = [row for one in ended for row in one.result[selector][case]]
            assert sorted(together) == sorted(alone)
            assert len(together) == 24


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("num_ranks", "half"), [(2, False), (3, True)])
def test_groups_span_ranks(num_ranks, half, loss):
    """Ids cross ranks whole, so that what one rank has chosen is no negative on another."""
    ids = torch.tensor([2**40 + row % 5 for row in range(60)])

    def pick(groups, group=None):
        rank, size = (0, 1) if group is None else (group.rank, group.size)
        selector = JointSelector(4, gain=30.0, quota="global", half=half)
        found = []
        for seed in range(4):
            learner, _ = sides(60, seed=seed)
            ids = None if groups is None else groups[rank::size]
            scores = FactoredScores(dealt(learner, rank, size), loss=loss, groups=ids)
            over_ranks = RankScores(scores, ranks_of(group))
            chosen = selector.select(over_ranks, 24 // size, key=seed)
            found += (100 * seed + chosen * size + rank).tolist()
        return found

    alone = pick(ids)
    together = simulate_ranks(num_ranks, lambda group: pick(ids, group))
    assert sorted(row for one in together for row in one) == sorted(alone)
    assert sorted(alone) != sorted(pick(None))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_ranks", [3, 6])
def test_ranks_with_global_quota_pick_what_one_picks(num_ranks, loss):
    cases = [(loss, seed) for seed in range(20)]
    alone = picks(0, 1, JointSelector(5, quota="global"), cases)
    together = simulate_ranks(
        num_ranks,
        lambda group: picks(
            group.rank, num_ranks, JointSelector(5, quota="global"), cases, group=group
        ),
    )
    for case, expected in enumerate(alone):
        assert sorted(row for one in together for row in one[case]) == sorted(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_equal_quota_each_chunk_is_conditioned_on_what_all_chose(loss):
    num_ranks, chunks, size = 3, 4, 60
    together = simulate_ranks(
        num_ranks,
        lambda group: picks(group.rank, num_ranks, JointSelector(chunks), [(loss, 0)], group=group),
    )
    quotas = [one[0] for one in together]
    assert {len(quota) for quota in quotas} == {8}
    # The same from all embeddings in one place, a rank's candidates being all that it may draw.
    scores, whole = FactoredScores(*sides(size, seed=0), loss), JointSelector(chunks)
    for chunk in range(chunks):
        drawn = [row for quota in quotas for row in quota[2 * chunk : 2 * chunk + 2]]
        for rank, quota in enumerate(quotas):
            logits = scores.logits.clone()
            logits[[row for row in range(size) if row % num_ranks != rank]] = -torch.inf
            alone = RankScores(ExampleScores(logits), Ranks())
            expected = draw(alone, 2, fold(0, chunk), gain=whole.gain).candidates
            assert quota[2 * chunk : 2 * chunk + 2] == expected.tolist()
        scores = scores.given(torch.tensor(drawn))


def select_in_a_group(rank: int) -> tuple[list[list[int]], str]:
    """What this rank chooses with its group, and what the other group says to it."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    own, other = groups if rank % 2 == 0 else reversed(groups)
    found = picks(rank // 2, 2, JointSelector(4, quota="global"), CASES[:2], group=own)
    with pytest.raises(ValueError, match="can select with it") as refusal:
        ranks_of(other)
    return found, str(refusal.value)


def test_groups_of_processes_select_by_themselves():
    expected = picks(0, 1, JointSelector(4), CASES[:2])
    ended = launch(4, select_in_a_group)
    assert [one.error for one in ended] == [None] * 4
    for pair in ((0, 2), (1, 3)):
        for case, alone in enumerate(expected):
            together = [row for rank in pair for row in ended[rank].result[0][case]]
            assert sorted(together) == sorted(alone)
    assert "rank 0 is not in it" in ended[0].result[1]


def test_dense_scores_say_that_they_cannot_be_conditioned():
    def run(group):
        scores = RankScores(DenseScores(torch.rand(8, 8)), ranks_of(group))
        return JointSelector(2).select(scores, 4, key=0)

    with pytest.raises(ValueError, match="got DenseScores; use FactoredScores or ExampleScores"):
        simulate_ranks(2, run)
