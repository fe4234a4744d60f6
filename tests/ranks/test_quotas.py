"""What the quotas of ranks are worth, measured against the exact draw."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from jest_loader import (
    Embeddings,
    ExampleScores,
    FactoredScores,
    JointSelector,
)
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import ranks_of
from jest_loader.testing import simulate_ranks
from tests.ranks.builders import dealt

ROOT = Path(__file__).parents[2]


def clustered(size: int, *, seed: int) -> tuple[list[Embeddings], torch.Tensor]:
    """A learner that tells clusters apart and a reference that also tells their members apart.

    So hard negatives, the others of a cluster, are what makes a sub-batch worth learning.
    """
    generator = torch.Generator().manual_seed(seed)

    def unit(rows):
        return normalize(torch.randn(rows, 32, generator=generator), dim=1)

    cluster = torch.randint(size // 20, (size,), generator=generator)
    centre, own = unit(size // 20)[cluster], unit(size)
    tight = (0.3 + 1.2 * torch.rand(size // 20, 1, generator=generator))[cluster]

    def side(centre_weight, own_weight, noise, scale, bias):
        image, text = (
            normalize(centre_weight * centre + own_weight * own + noise * unit(size), dim=1)
            for _ in range(2)
        )
        return Embeddings(image, text, scale, bias)

    return [side(tight, 0.5, 0.5, 12.0, -8.0), side(0.5, 1.0, 0.4, 16.0, -9.0)], cluster


def learnability(pair: list[Embeddings], index: torch.Tensor) -> float:
    learner, reference = (
        contrastive_loss(replace(side, image=side.image[index], text=side.text[index]), "sigmoid")
        for side in pair
    )
    return float(learner - reference)


def mean_learnability(quota: str, num_ranks: int, skew: float = 0.0) -> float:
    """Over 16 super-batches: their standard error is 4 %.

    Args:
        quota: Of the selector.
        num_ranks: Ranks.
        skew: The share of the candidates that are dealt in the order of their clusters, so that a
            rank has those of few.
    """
    size, sub_batch, found = 1280, 256, []
    for seed in range(16):
        pair, cluster = clustered(size, seed=seed)
        random = torch.rand(2, size, generator=torch.Generator().manual_seed(seed))
        place = torch.where(random[0] < skew, cluster / (size // 20), random[1])
        order = place.argsort().reshape(num_ranks, -1).T.flatten()
        ordered = [replace(s, image=s.image[order], text=s.text[order]) for s in pair]

        def run(group, ordered=ordered, seed=seed):
            shares = [dealt(side, group.rank, num_ranks) for side in ordered]
            scores = RankScores(FactoredScores(*shares), ranks_of(group))
            selector = JointSelector(8, quota=quota)
            index = selector.select(scores, sub_batch // num_ranks, key=seed)
            return index * num_ranks + group.rank

        found.append(learnability(ordered, torch.cat(simulate_ranks(num_ranks, run))))
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def exact() -> float:
    return mean_learnability("global", 1)


@pytest.mark.parametrize("num_ranks", [4, pytest.param(32, marks=pytest.mark.slow)])
def test_equal_quotas_are_worth_nearly_what_the_exact_rule_is(exact, num_ranks):
    assert 0.85 < mean_learnability("equal", num_ranks) / exact < 1.1


def test_equal_quotas_are_worth_less_where_ranks_have_few_clusters(exact):
    """Quotas then keep a rank from what it has."""
    assert 0.8 < mean_learnability("equal", 8, skew=0.25) / exact < 1.05


def test_local_quotas_lose_most_of_what_joint_selection_gains(exact):
    with pytest.warns(UserWarning, match="use quota='equal'"):
        assert mean_learnability("local", 8) / exact < 0.6


def test_warning_and_pages_say_what_local_quotas_were_measured_at():
    text = (ROOT / "bench/results/quotas_cpu.txt").read_text()
    document = json.loads(text.splitlines()[-1])
    worth = {row["ranks"]: row["learnability"] for row in document["rows"] if row["skew"] == 0}
    uniform, local = (
        [worth[number][rule]["mean"] for number in numbers]
        for rule, numbers in (("uniform", [1]), ("local", [2, 8, 64]))
    )
    warned = figures([document["global"], *uniform, *local])
    assert re.findall(r"\d+\.\d", warning_of_local_quotas()) == warned
    written = figures([document["global"], *local, *uniform])
    for page in ("docs/ranks.md", "docs/decisions/07-ranks.md"):
        paragraphs = (ROOT / page).read_text().replace("\n\n", "\n").split('"local"')
        sentence = next(part for part in paragraphs if "the learnability of the batch fell" in part)
        assert re.findall(r"\d+\.\d", sentence)[: len(written)] == written


def figures(values: list[float]) -> list[str]:
    return [f"{value:.1f}" for value in values]


def warning_of_local_quotas() -> str:
    def run(group):
        scores = RankScores(ExampleScores(torch.arange(8.0)), ranks_of(group))
        JointSelector(quota="local").select(scores, 2, key=0)

    with pytest.warns(UserWarning, match="use quota='equal'") as warned:
        simulate_ranks(2, run)
    return str(warned[0].message)


def test_an_unknown_quota_is_refused():
    with pytest.raises(ValueError, match="quota must be 'equal', 'global' or 'local', got 'all'"):
        JointSelector(quota="all")
