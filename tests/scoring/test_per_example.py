"""RHO-LOSS: what is learnable and not learned yet is chosen, whatever the model."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import (
    ExampleScores,
    IndependentSelector,
    JestDataset,
    PerExample,
    SkipRowsError,
    TopKSelector,
)
from jest_loader.testing import assert_resumes_exactly

NUM_CLASSES = 5


def labelled(size: int, seed: int):
    """Points around five centres, a fifth of them with a wrong label."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(NUM_CLASSES, 8, generator=torch.Generator().manual_seed(99))
    truth = torch.randint(NUM_CLASSES, (size,), generator=generator)
    x = centres[truth] + torch.randn(size, 8, generator=generator)
    noisy = torch.rand(size, generator=generator) < 0.2
    wrong = (truth + torch.randint(1, NUM_CLASSES, (size,), generator=generator)) % NUM_CLASSES
    return {"x": x, "label": torch.where(noisy, wrong, truth), "noisy": noisy, "class": truth}


def loss_of(model, batch):
    return cross_entropy(model(batch["x"]), batch["label"], reduction="none")


def trained(batch, steps: int = 200) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(8, NUM_CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, batch).mean().backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Trained on data held out, most of whose labels are right."""
    return trained(labelled(2000, seed=1))


@pytest.fixture(scope="module")
def learner() -> nn.Module:
    """Cannot tell the last two classes apart yet."""
    batch = labelled(2000, seed=2)
    confused = batch["label"] >= 3
    either = 3 + torch.randint(2, (2000,), generator=torch.Generator().manual_seed(0))
    return trained({**batch, "label": torch.where(confused, either, batch["label"])})


def chosen_of(scorer, size: int = 100):
    batch = labelled(1000, seed=3)
    index = TopKSelector().select(scorer.score(batch), size, key=0)
    return {name: column[index] for name, column in batch.items()}


def test_rho_loss_picks_what_is_clean_and_not_learned_yet(learner, reference):
    rho = chosen_of(PerExample(learner, loss_of, PerExample(reference, loss_of)))
    assert rho["noisy"].float().mean() < 0.25
    assert (rho["class"] >= 3).float().mean() > 0.8, "what the learner has not learned"
    loss_alone = chosen_of(PerExample(learner, loss_of))
    assert loss_alone["noisy"].float().mean() > 0.8, "the loss alone takes noise for learnable"
    assert (loss_alone["class"] >= 3).float().mean() < 0.6


def test_scores_are_the_losses_less_those_of_the_reference(learner, reference):
    batch = labelled(50, seed=4)
    found = PerExample(learner, loss_of, PerExample(reference, loss_of)).score(batch)
    assert isinstance(found, ExampleScores)
    with torch.no_grad():
        expected = loss_of(learner, batch) - loss_of(reference, batch)
    torch.testing.assert_close(found.logits, expected)


def test_a_reference_may_be_stored(learner):
    class Stored:
        def values(self, batch):
            return batch["stored"].double()

    batch = {**labelled(50, seed=4), "stored": torch.rand(50)}
    batch["stored"][7] = torch.nan
    scores = PerExample(learner, loss_of, Stored()).score(batch)
    found = scores.logits
    with torch.no_grad():
        expected = loss_of(learner, batch) - batch["stored"].double()
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert torch.isnan(found).nonzero().tolist() == [[7]]
    assert scores.skipped == {7: "the reference has no value for it"}


def test_rows_that_the_loss_cannot_use_keep_its_reasons(learner, reference):
    def loss(model, batch):
        bad = dict.fromkeys(batch["torn"].nonzero()[:, 0].tolist(), "torn")
        if bad:
            raise SkipRowsError(bad)
        return loss_of(model, batch)

    batch = labelled(50, seed=4)
    batch["torn"] = torch.arange(50) % 20 == 9
    irreducible = PerExample(reference, loss)
    for scorer in (PerExample(learner, loss, irreducible, micro_batch_size=7), irreducible):
        scores = scorer.score(batch)
        assert scores.skipped == {9: "torn", 29: "torn", 49: "torn"}
        assert torch.isnan(scores.logits).nonzero()[:, 0].tolist() == [9, 29, 49]


def test_losses_are_those_of_eval_mode_by_micro_batches():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, NUM_CLASSES)).train()
    batch = labelled(50, seed=4)
    whole, parts = (
        PerExample(model, loss_of, micro_batch_size=size).values(batch) for size in (None, 7)
    )
    torch.testing.assert_close(parts, whole)
    with torch.no_grad():
        torch.testing.assert_close(whole, loss_of(model.eval(), batch))
    assert not whole.requires_grad


def test_a_language_model_averages_over_its_tokens():
    model = nn.Embedding(11, 11)

    def loss(model, batch):
        tokens = batch["tokens"]
        logits = model(tokens[:, :-1])
        return cross_entropy(logits.mT, tokens[:, 1:], reduction="none").mean(dim=1, keepdim=True)

    batch = {"tokens": torch.randint(11, (6, 9))}
    values = PerExample(model, loss).values(batch)
    expected = [loss(model, {"tokens": row[None]}).item() for row in batch["tokens"]]
    torch.testing.assert_close(values, torch.tensor(expected))
    with pytest.raises(ValueError, match=r"one .* per example, shape \(6,\), got shape \(6, 8\)"):
        PerExample(
            model,
            lambda m, b: cross_entropy(
                m(b["tokens"][:, :-1]).mT, b["tokens"][:, 1:], reduction="none"
            ),
        ).values(batch)


@pytest.mark.parametrize("with_reference", [True, False])
def test_a_dataset_with_rho_loss_resumes_exactly(learner, reference, with_reference):
    rows = labelled(320, seed=6)
    examples = [{name: column[row] for name, column in rows.items()} for row in range(320)]
    scorer = PerExample(
        learner, loss_of, PerExample(reference, loss_of) if with_reference else None
    )
    assert_resumes_exactly(
        lambda: JestDataset(
            StatefulDataLoader(examples, batch_size=40),
            scorer,
            IndependentSelector(),
            super_batch_size=80,
            sub_batch_size=16,
        )
    )


class NotFloat:
    def values(self, batch):
        return torch.arange(len(batch["x"]))


class TooFew:
    def values(self, batch):
        return torch.zeros(len(batch["x"]) - 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: PerExample(m, nn.CrossEntropyLoss()), "function.*, got CrossEntropyLoss"),
        (lambda m: PerExample(m, loss_of, m), "values.*, got Linear; wrap a model in PerExample"),
        (
            lambda m: PerExample(m, lambda model, b: loss_of(model, b).mean()),
            r"shape \(5,\), got shape \(\) of float32; use reduction='none'",
        ),
        (
            lambda m: PerExample(m, lambda model, b: loss_of(model, b).argsort()),
            r"got shape \(5,\) of int64",
        ),
        (lambda m: PerExample(m, lambda model, b: [0.0] * 5), "got list"),
        (
            lambda m: PerExample(m, lambda model, b: loss_of(model, b)[:3]),
            r"shape \(5,\), got shape \(3,\)",
        ),
        (
            lambda m: PerExample(m, lambda model, b: model(b["pixels"])),
            "lacks 'pixels'; it has 'x', 'label', 'noisy', 'class'",
        ),
        (lambda m: PerExample(m, loss_of, NotFloat()), r"values must be .* of int64"),
        (lambda m: PerExample(m, loss_of, TooFew()), r"shape \(5,\), got shape \(4,\)"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make(nn.Linear(8, NUM_CLASSES)).score(labelled(5, seed=0))
