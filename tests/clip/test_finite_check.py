"""Losses and gradients that are not finite stop a run before anything of them is kept."""

import json
from dataclasses import replace

import pytest
import torch

from jest_loader.clip import train as training
from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.step.finite_check import FiniteCheck, StepValues, _Pending
from jest_loader.clip.train import train
from tests.clip_runs import config_for


def run_that_breaks(shards, out, monkeypatch, broken, at=8, **changes):
    """A run in whose ``at``-th step ``broken(run)`` is called before; what was trained on then."""
    config = config_for(shards, out, checkpoint_every=4, **changes)
    step, ids, calls = training._train_step, [], iter(range(1, 100))

    def breaking(run, batch):
        if next(calls) == at:
            ids.extend(int(number) for number in batch["sample_id"])
            broken(run)
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", breaking)
    with pytest.raises(FloatingPointError) as error:
        train(config)
    monkeypatch.setattr(training, "_train_step", step)
    return config, ids, str(error.value)


def spoil(run):
    with torch.no_grad():
        run.model.log_scale.fill_(torch.nan)


def late(self, *step):
    """As on a GPU: a step is looked at when the next one is added."""
    before, self._pending = self._pending, _Pending(*step)
    if before is not None:
        self._check(before)


@pytest.mark.parametrize("when", ["at once", "a step later"])
def test_a_loss_that_is_not_finite_names_its_samples(shards, tmp_path, monkeypatch, when):
    out, log = tmp_path / "run", LogConfig(every=1)
    if when == "a step later":
        monkeypatch.setattr(FiniteCheck, "add", late)
    config, ids, message = run_that_breaks(shards, out, monkeypatch, spoil, log=log)
    assert len(ids) == 8
    named = ", ".join(map(str, ids[:5]))
    assert message == (
        f"the loss must be finite, got nan at step 8 on samples {named}, and 3 more (all in "
        f"{out / 'nonfinite.json'}); look at those, or start again with a lower optimizer.lr, in "
        "another folder"
    )
    written = json.loads((out / "nonfinite.json").read_text())
    assert written == {"step": 8, "loss": "nan", "gradient_norm": "nan", "sample_ids": ids}
    # Step 8 would have been evaluated, logged and saved.
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 7
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 4
    assert train(config).step == 12
    train(replace(config, out=tmp_path / "whole"))
    ended = [
        torch.load(path / "checkpoint.pt", weights_only=True)["model"]
        for path in (out, tmp_path / "whole")
    ]
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


def test_a_gradient_that_is_not_finite_stops_the_run_too(shards, tmp_path, monkeypatch):
    """Its loss is finite, and its weights would have been saved."""

    def spoil_the_gradient(run):
        run.model.log_scale.register_hook(lambda gradient: gradient * torch.inf)

    _, _, message = run_that_breaks(shards, tmp_path / "run", monkeypatch, spoil_the_gradient)
    assert message.startswith("the norm of the gradient must be finite, got inf at step 8 on")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4


def test_it_is_named_before_the_scores_that_it_spoils(shards, tmp_path, monkeypatch):
    """Candidates of the next step are scored by weights that are not finite any more."""
    monkeypatch.setattr(FiniteCheck, "add", late)
    joint = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)
    changes = {"selection": joint, "log": LogConfig(every=100), "eval_every": 100}
    out = tmp_path / "run"
    _, ids, message = run_that_breaks(shards, out, monkeypatch, spoil, at=6, **changes)
    assert message.startswith(f"the loss must be finite, got nan at step 6 on samples {ids[0]}, ")


def test_on_another_device_it_is_noticed_a_step_later(tmp_path):
    """On ``meta`` there are no values, so nothing may ask for them in between."""
    check = FiniteCheck(tmp_path)
    seen = []

    check._check = lambda pending: seen.append(pending.step)
    for step in (1, 2, 3):
        loss = torch.ones((), device="meta")
        check.add(step, loss, loss, [step])
        assert seen == list(range(1, step))
    check.settle()
    assert seen == [1, 2, 3]


def test_settling_says_what_the_last_step_was_like(tmp_path):
    check = FiniteCheck(tmp_path)
    assert check.settle() is None
    check.add(3, torch.tensor(0.5), torch.tensor(2.0), [1])
    assert check.settle() == check.settle() == StepValues(3, 0.5, 2.0)


def test_a_learning_rate_that_is_too_high_is_named(shards, tmp_path):
    config = config_for(
        shards, tmp_path / "run", optimizer=OptimizerConfig(lr=1e30, warmup_steps=1, clip_norm=1e9)
    )
    with pytest.raises(FloatingPointError, match=r"must be finite, got .* a lower optimizer.lr"):
        train(config)
