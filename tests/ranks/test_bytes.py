"""What a rank receives from the others, and half precision, which halves it."""

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


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_statistics_count_what_each_sub_batch_made_a_rank_receive(folder, num_ranks):
    def run(group):
        loader = dataset(folder, group, num_ranks, quota="equal")
        return [loader.stats.bytes_received for _ in loader]

    words = (3 * 16 + 24) * (num_ranks - 1)  # On how it went.
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
