"""The optimizer's options, its schedules, and the average of the weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from jest_loader.clip import train as training
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.evaluation.evaluate import evaluate
from jest_loader.clip.step.optimizer import build_optimizer, schedule
from jest_loader.clip.train import train
from tests.clip_runs import config_for


def test_the_learning_rate_warms_up_and_falls_to_zero_as_a_cosine(shards, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def recording(self, *arguments):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    train(config_for(shards, tmp_path / "run"))
    expected = [0.002, 0.004, 0.006, 0.008, 0.01]
    expected += [0.01 * (1 + math.cos(math.pi * done / 7)) / 2 for done in range(7)]
    assert [rate[0] for rate in rates] == pytest.approx(expected)
    assert [rate[2] / rate[0] for rate in rates] == pytest.approx([10.0] * 12)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(schedule="constant", warmup_steps=2), [0.5, 1, 1, 1, 1, 1, 1, 1]),
        (
            OptimizerConfig(schedule="cooldown", warmup_steps=2, cooldown_steps=4),
            [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25],
        ),
        (
            OptimizerConfig(schedule="cooldown", warmup_steps=0, cooldown_steps=8),
            [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        ),
    ],
    ids=["constant", "cooldown", "cooldown alone"],
)
def test_schedules_that_are_not_cosines(config, expected):
    assert [schedule(step, 8, config) for step in range(8)] == expected


def test_a_run_uses_its_schedule(shards, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self: (rates.append(self.param_groups[0]["lr"]), step(self)),
    )
    config = config_for(shards, tmp_path / "run", steps=8)
    changed = replace(config.optimizer, schedule="cooldown", warmup_steps=2, cooldown_steps=4)
    train(replace(config, optimizer=changed))
    expected = [0.005, 0.01, 0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025]
    assert rates == pytest.approx(expected)


def test_betas_and_eps_reach_the_optimizer(shards, tmp_path):
    model = train(config_for(shards, tmp_path / "run", steps=1)).model
    groups = build_optimizer(model, OptimizerConfig(betas=(0.8, 0.95), eps=1e-6)).param_groups
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.8, 0.95), 1e-6)}
    groups = build_optimizer(model, OptimizerConfig()).param_groups
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.9, 0.98), 1e-8)}


@pytest.mark.parametrize("max_logit_scale", [None, 10.25])
def test_the_scale_stays_at_its_limit(shards, tmp_path, monkeypatch, max_logit_scale):
    step = training._train_step

    def raised(run, batch):
        with torch.no_grad():
            run.model.log_scale.fill_(math.log(50))
        step(run, batch)

    monkeypatch.setattr(training, "_train_step", raised)
    config = config_for(shards, tmp_path / "run", steps=2)
    run = train(
        replace(config, optimizer=replace(config.optimizer, max_logit_scale=max_logit_scale))
    )
    scale = run.model.log_scale.exp().item()
    assert scale > 40 if max_logit_scale is None else scale == pytest.approx(max_logit_scale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "optimizer.lr must be positive, got 0.0"),
        ({"eps": -1.0}, "optimizer.eps must be positive, got -1.0"),
        ({"clip_norm": math.nan}, "optimizer.clip_norm must be positive, got nan"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps must not be negative, got -1"),
        ({"betas": (0.9, 1.0)}, r"betas must be at least 0 and below 1, got \(0.9, 1.0\)"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        (
            {"max_logit_scale": 5.0},
            "max_logit_scale must not be below initial_logit_scale, got 5 and 10; raise the first",
        ),
        ({"cooldown_steps": 3}, "no effect while optimizer.schedule is cosine; set"),
        ({"schedule": "cooldown"}, "from 1 to the number of steps after the warm-up, got 0 and 7"),
        ({"schedule": "cooldown", "cooldown_steps": 8}, "warm-up, got 8 and 7; change it"),
    ],
)
def test_options_that_do_not_fit_are_refused(shards, tmp_path, changes, message):
    config = config_for(shards, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        replace(config, optimizer=replace(config.optimizer, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"keep_checkpoints": -1}, "keep_checkpoints"), ({"max_seconds": 0.0}, "max_seconds")],
)
def test_options_of_a_run_are_checked(shards, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config_for(shards, tmp_path / "run", **changes)


def test_an_average_of_weights_is_the_sum_that_it_says(shards, tmp_path, monkeypatch):
    decay, seen = 0.75, []
    update = AveragedModel.update_parameters

    def recording(self, model):
        seen.append([parameter.detach().double().clone() for parameter in model.parameters()])
        update(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", recording)
    config = config_for(shards, tmp_path / "plain")
    plain = train(config)
    assert plain.average is None
    averaging = replace(config.optimizer, ema_decay=decay)
    run = train(replace(config, out=tmp_path / "run", optimizer=averaging))
    # It changes nothing of the run itself.
    pairs = zip(plain.model.parameters(), run.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    begun, *seen = seen
    assert len(seen) == 12
    for place, average in enumerate(run.average.module.parameters()):
        expected = decay**12 * begun[place]
        for step, weights in enumerate(seen, start=1):
            expected = expected + (1 - decay) * decay ** (12 - step) * weights[place]
        torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=1e-5)
    metrics = run.evaluations[-1].metrics
    measured = evaluate(run.average.module, run.held_out[""])
    assert {name: metrics[f"ema_{name}"] for name in measured} == measured
    assert {name: metrics[name] for name in measured} == plain.evaluations[-1].metrics
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["average"]
    own = run.average.module.state_dict()
    assert all(torch.equal(saved[name], own[name]) for name in own)
