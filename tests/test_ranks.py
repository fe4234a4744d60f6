"""Several ranks: real processes over gloo where processes matter, threads where they do not."""

import json
import os
import signal
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize

from jest_loader import (
    BadSamplesError,
    DenseScores,
    Embeddings,
    ExampleScores,
    FactoredScores,
    HardLearner,
    IndependentSelector,
    JestDataset,
    JointSelector,
    Learnability,
    LiveLearner,
    RaggedBytes,
    TopKSelector,
    UniformSelector,
)
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.distributed import RankError, Ranks, RankScores, joint_bytes, ranks_of
from jest_loader.exchange import even_out
from jest_loader.ops.losses import contrastive_loss
from jest_loader.testing import batches_equal, simulate_ranks
from tests.helpers import Counting, random_embeddings
from tests.processes import launch

LOSSES = ["sigmoid", "softmax"]


def sides(size: int, *, seed: int, dtype=torch.float64, width=12) -> tuple[Embeddings, Embeddings]:
    learner = random_embeddings(size, width, seed=2 * seed, scale=12.0, bias=-3.0, dtype=dtype)
    reference = random_embeddings(
        size, width + 3, seed=2 * seed + 1, scale=15.0, bias=-4.0, agreement=2.0, dtype=dtype
    )
    return learner, reference


def dealt(side: Embeddings, rank: int, num_ranks: int) -> Embeddings:
    return replace(side, image=side.image[rank::num_ranks], text=side.text[rank::num_ranks])


def picks(rank: int, num_ranks: int, selector, cases, size=60, sub_batch=24) -> list[list[int]]:
    """For each (loss, seed), the numbers among all candidates of what this rank has chosen."""
    found = []
    for loss, seed in cases:
        shares = [dealt(side, rank, num_ranks) for side in sides(size, seed=seed)]
        index = selector.select(
            FactoredScores(*shares, loss), sub_batch // num_ranks, seed=seed, step=3
        )
        found.append((index * num_ranks + rank).tolist())
    return found


CASES = [(loss, seed) for loss in LOSSES for seed in range(12)]


def picked_by_process(rank: int, num_ranks: int) -> list[list[list[int]]]:
    others = [("sigmoid", seed) for seed in range(4)]
    return [
        picks(rank, num_ranks, JointSelector(4, quota="global"), CASES),
        picks(rank, num_ranks, IndependentSelector(quota="global"), others),
        picks(rank, num_ranks, TopKSelector(quota="global"), others),
        picks(rank, num_ranks, UniformSelector(quota="global"), others),
    ]


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
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
@pytest.mark.parametrize("num_ranks", [2, 3, 4, 6])
def test_ranks_with_global_quota_pick_what_one_picks(num_ranks, loss):
    cases = [(loss, seed) for seed in range(40)]
    alone = picks(0, 1, JointSelector(5, quota="global"), cases)
    together = simulate_ranks(
        num_ranks,
        lambda group: picks(
            group.rank, num_ranks, JointSelector(5, quota="global", group=group), cases
        ),
    )
    for case, expected in enumerate(alone):
        assert sorted(row for one in together for row in one[case]) == sorted(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_equal_quota_each_chunk_is_conditioned_on_what_all_chose(loss):
    num_ranks, chunks, size = 3, 4, 60
    together = simulate_ranks(
        num_ranks,
        lambda group: picks(group.rank, num_ranks, JointSelector(chunks, group=group), [(loss, 0)]),
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
            from jest_loader.drawing import draw
            from jest_loader.ops.noise import fold

            alone = RankScores(ExampleScores(logits), Ranks())
            expected = draw(alone, 2, fold(0, 3, chunk), gain=whole.gain).candidates
            assert quota[2 * chunk : 2 * chunk + 2] == expected.tolist()
        scores = scores.given(torch.tensor(drawn))


def test_example_scores_send_nothing():
    def run(group):
        ranks = ranks_of(group)
        scores = RankScores(ExampleScores(torch.arange(20.0) + group.rank), ranks)
        JointSelector(4).select(scores, 8, seed=0, step=0)
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
        JointSelector(num_chunks, half=half).select(scores, 44 // num_ranks, seed=0, step=0)
        return ranks.bytes_received

    expected = joint_bytes(44, num_chunks, num_ranks, 2 * (8 + 11) * itemsize)
    assert simulate_ranks(num_ranks, run) == [expected] * num_ranks


def test_at_the_papers_scale_ranks_receive_what_the_design_says():
    received = [joint_bytes(32_768, 16, ranks, 2 * 2 * 768 * 2) for ranks in (8, 64, 256)]
    assert [round(each / 1e6) for each in received] == [165, 186, 188]


def test_half_precision_changes_few_picks():
    def run(group, half):
        selector = JointSelector(4, half=half, group=group)
        shares = [dealt(side, group.rank, 2) for side in sides(400, seed=0, dtype=torch.float32)]
        return set(selector.select(FactoredScores(*shares), 50, seed=0, step=0).tolist())

    for exact, half in zip(
        simulate_ranks(2, lambda group: run(group, False)),
        simulate_ranks(2, lambda group: run(group, True)),
        strict=True,
    ):
        assert len(exact & half) >= 48


def clustered(size: int, seed: int) -> tuple[Embeddings, Embeddings, torch.Tensor]:
    """A learner and a reference that agree on clusters, and the cluster of each pair."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    cluster = torch.randint(40, (size,), generator=generator)
    centre, own = normal(40, 32)[cluster], normal(size, 32)
    clean = torch.rand(size, 1, generator=generator)
    image, text = centre + 0.7 * own, centre + 0.7 * (clean * own + (1 - clean) * normal(size, 32))
    reference = Embeddings(normalize(image, dim=1), normalize(text, dim=1), 20.0, -8.0)
    image, text = image + 1.2 * normal(size, 32), text + 1.2 * normal(size, 32)
    learner = Embeddings(normalize(image, dim=1), normalize(text, dim=1), 12.0, -6.0)
    return learner, reference, cluster


def learnability(pair, index) -> float:
    learner, reference = (
        contrastive_loss(replace(side, image=side.image[index], text=side.text[index]), "sigmoid")
        for side in pair
    )
    return float(learner - reference)


@pytest.mark.parametrize("skewed", [False, True])
def test_equal_quotas_are_worth_what_the_exact_rule_is(skewed):
    size, sub_batch = 2560, 512
    *pair, cluster = clustered(size, seed=0)
    values = {}
    for quota, num_ranks in [("global", 1), ("equal", 4), ("equal", 64), ("local", 64)]:
        share = size // num_ranks
        # Row i of rank r is candidate i * ranks + r: skewed, a rank has few clusters, and all of
        # some of them.
        order = cluster.argsort() if skewed else torch.arange(size)
        order = order.reshape(num_ranks, share).T.flatten()
        ordered = [replace(s, image=s.image[order], text=s.text[order]) for s in pair]

        def run(group, ordered=ordered, quota=quota, num_ranks=num_ranks):
            shares = [dealt(side, group.rank, num_ranks) for side in ordered]
            selector = JointSelector(8, quota=quota, group=group)
            index = selector.select(
                FactoredScores(*shares), sub_batch // num_ranks, seed=0, step=0
            )
            return index * num_ranks + group.rank

        if quota == "local":
            with pytest.warns(UserWarning, match="7.8 at 8 and 4.3 at 64"):
                chosen = torch.cat(simulate_ranks(num_ranks, run))
        else:
            chosen = torch.cat(simulate_ranks(num_ranks, run))
        values[quota, num_ranks] = learnability(ordered, chosen)
    exact = values["global", 1]
    assert 0.97 < values["equal", 4] / exact < 1.05, values
    assert 0.97 < values["equal", 64] / exact < 1.05, values
    assert values["local", 64] < 0.9 * exact, values
