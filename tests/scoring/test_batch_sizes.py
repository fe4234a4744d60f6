"""References that were trained at another batch size than that of the sub-batches."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from jest_loader import (
    CachedReference,
    Calibration,
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
    SkipRowsError,
    calibrate,
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


@pytest.mark.parametrize("reference", [frozen, cached, half_cached])
def test_a_calibration_takes_the_place_of_scale_and_bias(reference):
    found = Calibration(12.0, -6.0, 8)
    scorer = EasyReference(reference(-5.0, calibration=found))
    alike = EasyReference(ColumnReference("image", "text", logit_scale=12.0, logit_bias=-6.0))
    at_32 = EasyReference(
        ColumnReference("image", "text", logit_scale=12.0, logit_bias=-6.0 - math.log(4))
    )
    assert chosen(scorer) == chosen(at_32)
    assert chosen(scorer) != chosen(alike)


@pytest.mark.parametrize("reference", [frozen, cached])
def test_calibrated_fits_the_first_batches_as_calibrate_does(reference):
    first = replace(PAIRS, image=PAIRS.image[:80], text=PAIRS.text[:80])
    found = reference(-5.0).calibrated(iter(BATCHES), 32, max_pairs=80)
    assert found.calibration == calibrate(first, 32)
    again = reference(-5.0, calibration=Calibration(*json.loads(json.dumps(found.calibration))))
    assert chosen(EasyReference(again)) == chosen(EasyReference(found))
    assert found.embed(BATCHES[0]).logit_scale == found.calibration.logit_scale
    assert reference(-5.0).calibration is None


def test_calibrated_leaves_out_what_the_model_cannot_use():
    def refusing(model, batch):
        if bad := [k for k, row in enumerate(batch["sample_id"].tolist()) if row % 2 or row < 40]:
            raise SkipRowsError(dict.fromkeys(bad, "no"))
        return model.embed(batch)

    even = replace(PAIRS, image=PAIRS.image[40::2], text=PAIRS.text[40::2])
    found = FrozenReference(Model(-5.0), refusing).calibrated(BATCHES, 32)
    assert found.calibration == calibrate(even, 32)
    with pytest.raises(ValueError, match="needs batches with usable examples, got none"):
        FrozenReference(Model(-5.0), refusing).calibrated(BATCHES[:1], 32)


def test_a_size_and_a_calibration_are_not_both_given():
    with pytest.raises(ValueError, match=r"trained_batch_size or calibration.* not both, got 4"):
        frozen(-5.0, trained_batch_size=4, calibration=Calibration(10.0, -5.0, 4))


@pytest.mark.parametrize("numbers", [(0.0, -5.0, 4), (10.0, math.nan, 4), ("10", -5.0, 4)])
def test_what_is_no_calibration_is_refused(numbers):
    with pytest.raises(ValueError, match="a calibration must have a positive logit_scale"):
        cached(-5.0, calibration=numbers)
    with pytest.raises(ValueError, match="the batch_size of a calibration must be a whole number"):
        cached(-5.0, calibration=(10.0, -5.0, 2.5))


def test_a_model_that_knows_its_batch_size_need_not_be_told_it():
    model = Model(-5.0)
    model.trained_batch_size = 4
    assert FrozenReference(model).trained_batch_size == 4
    assert FrozenReference(model, trained_batch_size=8).trained_batch_size == 8
    assert LiveLearner(model).trained_batch_size is None  # It goes on from there.


def test_a_size_that_is_not_known_is_said_once(caplog):
    dataset = JestDataset(
        BATCHES, EasyReference(frozen(-5.0)), super_batch_size=160, sub_batch_size=32
    )
    for _ in range(2):
        list(dataset)
    (record,) = caplog.records
    assert "FrozenReference trained_batch_size" in record.getMessage()
    assert "used as it is, which is right only where" in record.getMessage()


@pytest.mark.parametrize(
    "scorer",
    [
        EasyReference(frozen(-5.0, trained_batch_size=32)),
        EasyReference(frozen(-5.0, calibration=Calibration(10.0, -5.0, 32))),
        EasyReference(columns(None), "softmax"),
        HardLearner(LiveLearner(Model(-5.0))),
    ],
    ids=["known", "calibrated", "softmax", "no reference"],
)
def test_nothing_is_said_where_the_bias_is_right(scorer, caplog):
    chosen(scorer)
    assert not caplog.records


def test_a_cache_is_of_the_size_that_the_model_for_its_gaps_knows(tmp_path):
    build(tmp_path, BATCHES, frozen(-5.0))
    live = frozen(-5.0, trained_batch_size=4)
    assert CachedReference.open(tmp_path, missing=live).trained_batch_size == 4
