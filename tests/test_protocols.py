"""What the package's own parts offer: the optional protocols that docs/architecture.md lists."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from jest_loader import (
    CachedLosses,
    CachedReference,
    DenseScores,
    EasyReference,
    ExampleScores,
    FactoredScores,
    FrozenReference,
    GibbsSelector,
    HardLearner,
    JointSelector,
    Learnability,
    LiveLearner,
    OnlineProxy,
    PerExample,
    TopKSelector,
    protocols,
)
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_zarr
from tests.helpers import random_embeddings

REQUIRED = {"Source", "Scorer", "Embedder", "ExampleValues", "Scores", "Selector"}
OPTIONAL = [
    kind for name, kind in vars(protocols).items()
    if getattr(kind, "_is_protocol", False)
    and kind.__module__ == protocols.__name__
    and name not in REQUIRED
]  # fmt: skip
SIDE = random_embeddings(4, 3, seed=0)


def embed(model, batch):
    return SIDE


def proxy():
    model = nn.Linear(1, 1)
    return OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=1.0), embed)


def cached():
    return CachedReference(SIDE.image, SIDE.text, 10.0)


def live():
    return LiveLearner(nn.Linear(1, 1), embed)


def offered(part: object) -> set[str]:
    return {kind.__name__ for kind in OPTIONAL if isinstance(part, kind)}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(live, {"Snapshots"}, id="LiveLearner"),
        pytest.param(
            lambda: FrozenReference(nn.Linear(1, 1), embed), {"Snapshots"}, id="FrozenReference"
        ),
        pytest.param(
            proxy,
            {"Snapshots", "Trainable", "Stateful", "WithLoss", "WithEqualBy"},
            id="OnlineProxy",
        ),
        pytest.param(cached, set(), id="CachedReference"),
        pytest.param(
            lambda: Learnability(live(), cached()),
            {"Snapshots", "Trainable", "WithLoss", "WithEqualBy", "WithReference", "WithLearner"},
            id="Learnability",
        ),
        pytest.param(
            lambda: EasyReference(cached()),
            {"Snapshots", "Trainable", "WithLoss", "WithEqualBy", "WithReference"},
            id="EasyReference",
        ),
        pytest.param(
            lambda: HardLearner(live()),
            {"Snapshots", "Trainable", "WithLoss", "WithEqualBy", "WithLearner"},
            id="HardLearner",
        ),
        pytest.param(
            lambda: PerExample(nn.Linear(1, 1), lambda model, batch: None),
            {"Snapshots", "WithReference", "SkippingValues"},
            id="PerExample",
        ),
        pytest.param(lambda: CachedLosses(torch.zeros(4)), {"SkippingValues"}, id="CachedLosses"),
        pytest.param(
            lambda: FactoredScores(SIDE),
            {"ContextScores", "BatchScores", "SharedScores", "SkippingScores", "WithReference"},
            id="FactoredScores",
        ),
        pytest.param(
            lambda: ExampleScores(torch.zeros(3)),
            {"BatchScores", "SharedScores", "SkippingScores"},
            id="ExampleScores",
        ),
        pytest.param(lambda: DenseScores(torch.zeros(3, 3)), {"BatchScores"}, id="DenseScores"),
        pytest.param(JointSelector, {"GainSelector", "QuotaSelector"}, id="JointSelector"),
        pytest.param(TopKSelector, {"QuotaSelector"}, id="TopKSelector"),
        pytest.param(GibbsSelector, {"GainSelector"}, id="GibbsSelector"),
        pytest.param(lambda: [{"x": torch.zeros(2)}], set(), id="list"),
        pytest.param(lambda: DataLoader([1, 2], batch_size=2), {"BatchedSource"}, id="DataLoader"),
    ],
)
def test_parts_offer_what_they_should(make, expected):
    assert offered(make()) == expected


def test_a_source_of_stored_rows_offers_all_that_a_source_can(tmp_path):
    write_zarr(tmp_path / "data", {"caption": "str"}, [{"caption": "a"}, {"caption": "b"}])
    assert offered(ZarrSource(tmp_path / "data", batch_size=1)) == {
        "Stateful", "EpochSource", "ShardableSource", "BatchedSource", "CountedSource",
        "SeekableSource", "Fingerprinted",
    }  # fmt: skip


def test_the_page_lists_every_protocol():
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"\| `([A-Z]\w+)` \|", page))
    assert {kind.__name__ for kind in OPTIONAL} <= named
