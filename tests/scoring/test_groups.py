"""Ids of examples that are not each other's negatives, and the scorers that use them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jest_loader import (
    EasyReference,
    FactoredScores,
    HardLearner,
    JestDataset,
    JointSelector,
    Learnability,
    OnlineProxy,
)
from jest_loader.ops.losses import contrastive_loss
from jest_loader.scoring.groups import group_ids
from tests.helpers import random_embeddings

CAPTIONS = ["a cat", "a dog", "a cat", "", "ä", "a dog", "", "A cat", "ä "]
IDS = [0, 1, 0, 2, 3, 1, 2, 4, 5]
LEARNER, REFERENCE = random_embeddings(9, 4, seed=0), random_embeddings(9, 6, seed=1)


class Fixed:
    def __init__(self, embeddings):
        self.embeddings = embeddings

    def embed(self, batch):
        return self.embeddings


def same(ids):
    return (ids[:, None] == ids).tolist()


FORMS = {
    "list": CAPTIONS,
    "tuple": tuple(CAPTIONS),
    "array of text": np.array(CAPTIONS),
    "array of objects": np.array(CAPTIONS, dtype=object),
    "numbers": IDS,
    "tensor": torch.tensor(IDS),
    "array": np.array(IDS, dtype=np.uint8),
    "large": torch.tensor(IDS) - 2**63,
}


@pytest.mark.parametrize("form", list(FORMS))
def test_equal_values_have_equal_ids_and_no_others(form):
    found = group_ids({"caption": FORMS[form]}, "caption")
    assert found.dtype == torch.int64
    assert same(found) == same(torch.tensor(IDS))


def test_ids_of_text_are_the_same_in_every_process():
    code = (
        "import json; from jest_loader.scoring.groups import group_ids; "
        f"print(json.dumps(group_ids({{'c': {CAPTIONS!r}}}, 'c').tolist()))"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    assert json.loads(output) == group_ids({"c": CAPTIONS}, "c").tolist()


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_scorers_leave_out_pairs_of_equal_values(loss):
    learner, reference, ids = Fixed(LEARNER), Fixed(REFERENCE), torch.tensor(IDS)
    expected = {
        Learnability(learner, reference, loss, equal_by="caption"): (LEARNER, REFERENCE),
        EasyReference(reference, loss, equal_by="caption"): (None, REFERENCE),
        HardLearner(learner, loss, equal_by="caption"): (LEARNER, None),
    }
    chosen = torch.tensor([2, 5])
    for scorer, sides in expected.items():
        found = scorer.score({"caption": CAPTIONS}).given(chosen).logits
        assert torch.equal(found, FactoredScores(*sides, loss, groups=ids).given(chosen).logits)
        assert not torch.equal(found, FactoredScores(*sides, loss).given(chosen).logits)


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image = torch.nn.Linear(4, 4)

    def embed(self, batch):
        from jest_loader import Embeddings

        unit = torch.nn.functional.normalize
        return Embeddings(
            unit(self.image(batch["image"]), dim=1), unit(batch["image"], dim=1), 9.0, -2.0
        )


def test_a_proxy_trains_without_the_pairs_of_equal_values():
    batch = {"image": torch.randn(9, 4), "caption": CAPTIONS}
    proxies = []
    for column in (None, "caption"):
        torch.manual_seed(0)
        model = Towers()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        proxies.append(OnlineProxy(model, optimizer, equal_by=column))
        found = contrastive_loss(
            model.embed(batch), "sigmoid", None if column is None else torch.tensor(IDS)
        )
        found.backward()
        expected = model.image.weight.detach() - 0.1 * model.image.weight.grad
        proxies[-1].update(batch)
        torch.testing.assert_close(model.image.weight.detach(), expected)
    assert not torch.allclose(*(proxy.model.image.weight for proxy in proxies))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"text": CAPTIONS},
            "equal_by='caption' must be a column of the batch, which has 'text'; add",
        ),
        ((CAPTIONS,), "which has tuple; add"),
        ({"caption": torch.zeros(9)}, "must be text or whole numbers, .* got float; name"),
        ({"caption": torch.zeros(9, 2, dtype=torch.int64)}, "got list; name a column"),
        ({"caption": [b"bytes"] * 9}, "got bytes; name"),
        ({"caption": CAPTIONS[:5]}, "groups must have one id per example, got 5 for 9"),
    ],
)
def test_what_holds_no_groups_is_refused_in_a_sentence(batch, message):
    with pytest.raises(ValueError, match=message):
        HardLearner(Fixed(LEARNER), equal_by="caption").score(batch)


def test_a_column_is_named_by_text():
    for make in (
        lambda: HardLearner(Fixed(LEARNER), equal_by=3),
        lambda: OnlineProxy(Towers(), torch.optim.SGD(Towers().parameters()), equal_by=True),
    ):
        with pytest.raises(ValueError, match="equal_by must be the name of a column or None, got"):
            make()


def test_a_state_is_loaded_with_the_same_column_only():
    class Source(list):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    def dataset(column):
        scorer = HardLearner(Fixed(LEARNER), equal_by=column)
        source = Source([{"caption": CAPTIONS}])
        return JestDataset(source, scorer, JointSelector(2), super_batch_size=9, sub_batch_size=3)

    state = dataset("caption").state_dict()
    dataset("caption").load_state_dict(state)
    with pytest.raises(ValueError, match="but equal_by was caption and is now None"):
        dataset(None).load_state_dict(state)
