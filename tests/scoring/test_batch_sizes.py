"""References that were trained at another batch size than that of the sub-batches."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from jest_loader import (
    CachedReference,
    ColumnReference,
    EasyReference,
    Embeddings,
    FrozenReference,
    HardLearner,
    JestDataset,
    Learnability,
    LiveLearner,
    OnlineProxy,
    Options,
)
from jest_loader.reference_cache import build
from jest_loader.testing import simulate_ranks
from tests.helpers import random_embeddings

PAIRS = random_embeddings(320, 16, seed=0, agreement=0.8, dtype=torch.float32)
BATCHES = [
    {
        "image": PAIRS.image[rows : rows + 40],
        "text": PAIRS.text[rows : rows + 40],
        "sample_id": torch.arange(rows, rows + 40),
    }
    for rows in range(0, 320, 40)
]


class Model(nn.Module):
    """Embeds with what is in the batch already."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.logit_bias = nn.Parameter(torch.tensor([bias]))

    def embed(self, batch):
        return Embeddings(batch["image"], batch["text"], 10.0, self.logit_bias)


def frozen(bias, **size):
    return FrozenReference(Model(bias), **size)


def columns(bias, **size):
    return ColumnReference("image", "text", logit_scale=10.0, logit_bias=bias, **size)


def cached(bias, **size):
    return CachedReference(PAIRS.image, PAIRS.text, 10.0, bias, **size)


def half_cached(bias, **size):
    image = PAIRS.image.clone()
    image[::2] = torch.nan
    live = FrozenReference(Model(bias), trained_batch_size=7)  # Of no account: the cache's counts.
    return CachedReference(image, PAIRS.text, 10.0, bias, missing=live, **size)


def chosen(scorer, **options):
    dataset = JestDataset(
        BATCHES, scorer, super_batch_size=160, sub_batch_size=32, options=Options(**options)
    )
    return [batch["sample_id"].tolist() for batch in dataset]


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlap"])
@pytest.mark.parametrize("reference", [frozen, columns, cached, half_cached])
def test_a_dataset_has_the_bias_adapted_to_its_sub_batches(reference, overlap):
    def picks(bias, **size):
        learner = LiveLearner(Model(-3.0))
        return chosen(Learnability(learner, reference(bias, **size)), overlap=overlap)

    adapted = picks(-5.0, trained_batch_size=4)
    assert adapted == picks(-5.0 - math.log(8))
    assert adapted != picks(-5.0)
    assert picks(-5.0, trained_batch_size=32) == picks(-5.0)


def test_a_learner_is_adapted_only_where_its_batch_size_is_told():
    told = HardLearner(LiveLearner(Model(-5.0), trained_batch_size=4))
    assert chosen(told) == chosen(HardLearner(LiveLearner(Model(-5.0 - math.log(8)))))
    assert chosen(told) != chosen(HardLearner(LiveLearner(Model(-5.0))))


def test_the_softmax_loss_has_no_bias_to_adapt():
    plain = EasyReference(columns(None), "softmax")
    assert chosen(EasyReference(columns(None, trained_batch_size=4), "softmax")) == chosen(plain)


@pytest.mark.parametrize("reference", [frozen, columns, cached])
def test_without_a_dataset_the_bias_stays_as_it_is(reference):
    found = reference(-5.0, trained_batch_size=4).embed(BATCHES[0])
    assert float(found.logit_bias) == -5.0


def test_of_several_ranks_the_sub_batches_count_together():
    def biases(group):
        scorer = EasyReference(columns(-5.0, trained_batch_size=16))
        options = Options(group=group, emit_reference=True, own_rows=True)
        data = BATCHES if group is None else BATCHES[group.rank :: 2]
        dataset = JestDataset(data, scorer, super_batch_size=80, sub_batch_size=16, options=options)
        return {batch["reference"].logit_bias for batch in dataset}

    assert biases(None) == {-5.0}
    assert simulate_ranks(2, biases) == 2 * [{-5.0 - math.log(2)}]


@pytest.mark.parametrize("size", [0, 2.5, "128"])
@pytest.mark.parametrize("reference", [frozen, columns, cached])
def test_what_is_no_batch_size_is_refused(reference, size):
    with pytest.raises(ValueError, match="trained_batch_size must be a whole number of at least 1"):
        reference(-5.0, trained_batch_size=size)


def test_a_proxy_takes_no_batch_size_as_it_is_trained_on_the_sub_batches():
    model = Model(-5.0)
    optimizer = torch.optim.SGD(model.parameters())
    option: Any = {"trained_batch_size": 4}
    with pytest.raises(TypeError, match="trained_batch_size"):
        OnlineProxy(model, optimizer, **option)


def test_a_cache_records_the_batch_size_that_its_reference_was_trained_at(tmp_path):
    build(tmp_path / "known", BATCHES, frozen(-5.0, trained_batch_size=4))
    build(tmp_path / "unknown", BATCHES, frozen(-5.0))
    known, unknown = (CachedReference.open(tmp_path / name) for name in ("known", "unknown"))
    assert (known.trained_batch_size, unknown.trained_batch_size) == (4, None)
    told = CachedReference.open(tmp_path / "unknown", trained_batch_size=4)
    assert chosen(EasyReference(known)) == chosen(EasyReference(told))
    assert chosen(EasyReference(known)) != chosen(EasyReference(unknown))


@pytest.mark.parametrize("text", ["0", "-3", "many", "1" * 30])
def test_a_record_that_is_no_batch_size_is_refused(tmp_path, text):
    build(tmp_path, BATCHES, frozen(-5.0), identity={"trained_batch_size": text})
    with pytest.raises(ValueError, match="trained_batch_size must be a whole number of at least 1"):
        CachedReference.open(tmp_path)
