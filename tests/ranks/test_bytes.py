"""What a rank receives from the others, and half precision, which halves it."""

from dataclasses import replace

import pytest
import torch

from jest_loader import (
    ExampleScores,
    FactoredScores,
    JointSelector,
)
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import joint_bytes, ranks_of
from jest_loader.testing import simulate_ranks
from tests.ranks.builders import dataset, dealt, sides


def test_example_scores_send_nothing():
    def run(group):
        ranks = ranks_of(group)
        scores = RankScores(ExampleScores(torch.arange(20.0) + group.rank), ranks)
        JointSelector(4).select(scores, 8, key=0)
        return ranks.bytes_received

    assert simulate_ranks(3, run) == [0, 0, 0]


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("num_chunks", [1, 4, 5, 50])
@pytest.mark.parametrize(
    ("dtype", "half", "itemsize"),
    [
        (torch.float32, False, 4),
        (torch.float32, True, 2),
        (torch.float64, True, 2),
        (torch.float16, False, 2),
        (torch.bfloat16, True, 2),
    ],
)
def test_what_is_received_is_what_the_formula_says(num_ranks, num_chunks, dtype, half, itemsize):
    def run(group):
        ranks = ranks_of(group)
        shares = [
            dealt(side, group.rank, num_ranks) for side in sides(120, seed=0, dtype=dtype, width=8)
        ]
        scores = RankScores(FactoredScores(*shares), ranks)
        JointSelector(num_chunks, half=half).select(scores, 44 // num_ranks, key=0)
        return ranks.bytes_received

    expected = joint_bytes(44, num_chunks, num_ranks, 2 * (8 + 11) * itemsize)
    assert simulate_ranks(num_ranks, run) == [expected] * num_ranks


def test_with_global_quota_rows_are_received_once_however_uneven():
    num_ranks, num_chunks, keys = 4, 4, (11, 11, 11, 11)

    def run(group):
        ranks = ranks_of(group)
        shares = [dealt(side, group.rank, num_ranks) for side in sides(120, seed=0, width=8)]
        if group.rank == 0:  # Its captions fit badly, so that most are chosen there.
            shares[0] = replace(shares[0], text=-shares[0].image)
        scores = RankScores(FactoredScores(*shares), ranks)
        chosen = JointSelector(num_chunks, quota="global").select(scores, 11, key=0)
        return len(chosen), ranks.bytes_received

    counts, received = zip(*simulate_ranks(num_ranks, run), strict=True)
    assert max(counts) > 2 * 11
    embeddings = (44 - 11) * 2 * (8 + 11) * 8
    assert sum(received) == (num_ranks - 1) * (num_ranks * sum(keys) * 8 + embeddings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_rows_are_gathered_whatever_their_numbers(dtype):
    counts = [3, 0, 1]

    def run(group):
        ranks = ranks_of(group)
        rows = torch.arange(12).view(4, 3)[:, : counts[group.rank]].T + 100 * group.rank
        found = ranks.all_gather_rows(rows.to(dtype), counts)
        ids = ranks.all_gather_rows(rows[:, 0].to(dtype), counts)
        return found.dtype, found.tolist(), ids.tolist(), ranks.bytes_received

    expected = [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [200, 203, 206, 209]]
    for rank, (found_dtype, rows, ids, received) in enumerate(simulate_ranks(3, run)):
        assert found_dtype == dtype
        assert rows == expected
        assert ids == [0, 1, 2, 200]
        assert received == 5 * (4 - counts[rank]) * dtype.itemsize


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_statistics_count_what_each_sub_batch_made_a_rank_receive(folder, num_ranks):
    def run(group):
        loader = dataset(folder, group, num_ranks, quota="equal")
        return [loader.stats.bytes_received for _ in loader]

    words = (2 * 16 + 24 + 56) * (num_ranks - 1)  # On how it went.
    expected = joint_bytes(12, 4, num_ranks, 2 * (12 + 15) * 8) + words
    assert simulate_ranks(num_ranks, run) == [[expected] * 5] * num_ranks


def test_at_the_papers_scale_ranks_receive_what_the_design_says():
    received = [joint_bytes(32_768, 16, ranks, 2 * 2 * 768 * 2) for ranks in (8, 64, 256)]
    assert [round(each / 1e6) for each in received] == [165, 186, 188]


def test_half_precision_changes_few_picks():
    def run(group, half):
        shares = [dealt(side, group.rank, 2) for side in sides(400, seed=0, dtype=torch.float32)]
        scores = RankScores(FactoredScores(*shares), ranks_of(group))
        return set(JointSelector(4, half=half).select(scores, 50, key=0).tolist())

    for exact, half in zip(
        simulate_ranks(2, lambda group: run(group, False)),
        simulate_ranks(2, lambda group: run(group, True)),
        strict=True,
    ):
        assert len(exact & half) >= 48
