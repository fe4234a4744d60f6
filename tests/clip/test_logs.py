"""What a run writes: JSON lines, TensorBoard, Weights & Biases, and progress."""

import json
import logging
import math
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from jest_loader.clip import train as training
from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.journal.logs import open_logs
from jest_loader.clip.journal.numbers import numbers
from jest_loader.clip.journal.progress import Progress
from jest_loader.clip.journal.screen import screen_handler
from jest_loader.clip.stop import Stopped
from jest_loader.clip.train import train
from tests.clip_runs import config_for

JOINT = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_line_says_what_a_step_was(shards, tmp_path):
    run = train(config_for(shards, tmp_path / "run", selection=JOINT, log=LogConfig(every=5)))
    lines = lines_of(tmp_path / "run")
    assert [(line["step"], "held_out" in line) for line in lines] == [
        (4, True), (5, False), (8, True), (10, False), (12, False), (12, True),
    ]  # fmt: skip
    step, held_out = lines[-2], lines[-1]
    assert held_out["held_out"] == run.evaluations[-1].metrics
    stats = run.loader.stats
    assert (step["score"], step["uniform_score"]) == (stats.score, stats.uniform_score)
    assert step["steps_past_reference"] is None  # The learner alone is compared with nothing.
    assert step["logit_scale"] == run.model.log_scale.exp().item()
    assert step["logit_bias"] == run.model.logit_bias.item()
    assert (step["counts"], step["flops"]) == (run.counts.to_dict(), run.flops)
    assert step["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi * 6 / 7)) / 2)
    shares = [step[f"{name}_fraction"] for name in ("waiting", "scoring", "selecting")]
    assert all(0 < share < 1 for share in shares)
    assert sum(shares) < 1


def test_losses_norms_and_rates_are_those_of_the_steps(shards, tmp_path, monkeypatch):
    losses, norms = [], []
    backward = training.backward  # type: ignore[attr-defined]
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        training, "backward", lambda *given: losses.append(backward(*given)) or losses[-1]
    )

    def by_hand(parameters, limit):
        parameters = list(parameters)
        squares = [parameter.grad.double().square().sum() for parameter in parameters]
        norms.append(torch.stack(squares).sum().sqrt().item())
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", by_hand)
    run = train(config_for(shards, tmp_path / "run", log=LogConfig(every=4)))
    lines = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert [line["loss"] for line in lines] == [losses[index].item() for index in (3, 7, 11)]
    assert [line["gradient_norm"] for line in lines] == pytest.approx(norms[3::4])
    seconds = sum(4 * 8 / line["examples_per_s"] for line in lines)
    assert seconds == pytest.approx(run.seconds)


def test_lines_after_the_checkpoint_do_not_stand_twice(tmp_path):
    with open_logs(LogConfig(), tmp_path, 0, {}) as logs:
        for step in (1, 2, 3):
            logs.write({"step": step, "value": math.nan})
    whole = (tmp_path / "log.jsonl").read_bytes()
    assert [line["value"] for line in lines_of(tmp_path)] == [None] * 3
    (tmp_path / "log.jsonl").write_bytes(whole + b'{"step": 4, "valu')
    with open_logs(LogConfig(), tmp_path, 3, {}):
        assert (tmp_path / "log.jsonl").read_bytes() == whole
    with open_logs(LogConfig(), tmp_path, 2, {}) as logs:
        logs.write({"step": 3, "value": 1})
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]
    (tmp_path / "log.jsonl").write_bytes(whole + b"\0\0\0\n")
    with open_logs(LogConfig(), tmp_path, 5, {}):
        assert (tmp_path / "log.jsonl").read_bytes() == whole


def test_numbers_within_dicts_get_names_of_their_own():
    record = {"step": 1, "held_out": {"top1": 0.5}, "bias": None, "name": "a"}
    assert numbers(record) == {"step": 1, "held_out/top1": 0.5}


def test_logging_may_change_when_a_run_goes_on(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", max_seconds=1e-6)
    with pytest.raises(Stopped):
        train(config)
    changes = {"max_seconds": None, "keep_checkpoints": 1, "log": LogConfig(every=3)}
    assert train(replace(config, **changes)).step == 12


def test_tensorboard_has_every_step_once_after_a_run_was_killed(shards, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = config_for(shards, tmp_path / "run", log=LogConfig(every=1, tensorboard=True))
    step, calls = training._train_step, iter(range(1, 100))

    def dying_in_the_eighth(run, batch):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", dying_in_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    train(config)
    read = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = read.Scalars("loss")
    assert [scalar.step for scalar in scalars] == list(range(1, 13))
    losses = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    assert [scalar.value for scalar in scalars] == pytest.approx(losses)
    assert [scalar.step for scalar in read.Scalars("held_out/zero_shot_top1")] == [4, 8, 12]


class FakeWandb(ModuleType):
    """Weights & Biases as far as it is used: what was asked of it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits, self.logged, self.exit_codes = [], [], []

    def init(self, **arguments):
        self.inits.append(arguments)
        return SimpleNamespace(
            log=lambda numbers, step: self.logged.append((step, numbers)),
            finish=lambda exit_code: self.exit_codes.append(exit_code),
        )


def test_a_run_that_goes_on_is_the_same_run_in_wandb(shards, tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = config_for(shards, tmp_path / "one", log=LogConfig(every=6, wandb="icons"))
    with pytest.raises(Stopped):
        train(replace(config, max_seconds=1e-6))
    train(config)
    first, second = wandb.inits
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("icons", "one", "allow")
    assert first["config"]["optimizer"]["lr"] == 0.01
    assert [step for step, _ in wandb.logged] == [4, 6, 8, 12, 12]
    assert wandb.logged[1][1]["counts/trained"] == 48
    assert wandb.exit_codes == [0, 0]
    train(config)  # It has ended: nothing more to tell.
    assert len(wandb.inits) == 2
    train(replace(config, out=tmp_path / "other"))
    assert wandb.inits[2]["id"] != first["id"]


def test_a_run_that_fails_fails_in_wandb_too(shards, tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = config_for(shards, tmp_path / "run", log=LogConfig(wandb="icons"))
    with pytest.raises(FloatingPointError):
        train(replace(config, optimizer=replace(config.optimizer, lr=1e30, clip_norm=1e9)))
    assert wandb.exit_codes == [1]


@pytest.mark.parametrize(("option", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named(shards, tmp_path, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    log = LogConfig(tensorboard=True) if option == "tensorboard" else LogConfig(wandb="icons")
    with pytest.raises(ModuleNotFoundError, match=module):
        train(config_for(shards, tmp_path / "run", log=log))


RECORD = {
    "step": 7, "loss": 1.5, "examples_per_s": 1234.5, "score": 0.25, "uniform_score": 0.125,
    "steps_past_reference": 80, "waiting_fraction": 0.01, "scoring_fraction": 0.2,
    "selecting_fraction": 0.03,
}  # fmt: skip
SCORE = "score 0.25 (uniform 0.12)"


@pytest.mark.parametrize(("steps", "told"), [(None, False), (80, False), (120, True)])
def test_progress_tells_of_a_reference_that_was_passed_long_ago(steps, told, capsys):
    with Progress(7, 6, "joint") as progress:
        progress.show({**RECORD, "steps_past_reference": steps}, {})
    shown = capsys.readouterr().err
    assert ("past the reference for 120 steps" in shown) == told
    assert shown.startswith("joint: step 7 of 7, loss 1.500, ")


def test_a_log_gets_the_first_step_the_last_and_one_a_minute(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress(9, 0, "joint   ") as progress:
        for step in range(1, 10):
            progress.update()
            progress.show({**RECORD, "step": step}, {"zero_shot_top1": 0.5})
            now += 15
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("joint: step 1 of 9, loss 1.500, held out 50.0%, 1,234 examples/s")
    assert [line.split(",")[0] for line in lines] == [
        f"joint: step {step} of 9" for step in (1, 5, 9)
    ]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(9, 6, "joint") as progress:
        progress.show({**RECORD, "score": None}, {})
        progress.update()
    shown = capsys.readouterr().err
    assert "7/9" in shown
    assert "1,234 examples/s" in shown


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_fits_its_terminal_and_begins_at_once(columns, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    record = {**RECORD, "steps_past_reference": 120}
    with Progress(12_000, 0, "independent") as progress:
        first = capsys.readouterr().err
        assert "0/12000" in first
        progress.show(record, {"zero_shot_top1": 0.5})
        for _ in range(12_000):
            progress.update()
    shown = first + capsys.readouterr().err
    assert all(len(line) < columns for line in shown.splitlines())
    assert ("held out 50.0%" in shown) == (columns > 40)
    assert (SCORE in shown) == (columns == 200)


def test_a_line_of_a_log_fits_80_columns(capsys):
    record = {**RECORD, "step": 12_345, "loss": 12.5, "steps_past_reference": 120}
    with Progress(20_000, 0, "independent") as progress:
        progress.show(record, {"zero_shot_top1": 0.5})
    line = capsys.readouterr().err.rstrip("\n")
    assert len(line) < 80
    assert "loss 12.500, held out 50.0%" in line


def test_a_warning_is_shown_on_a_terminal_of_hardly_a_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    screen_handler().handle(logging.makeLogRecord({"levelname": "WARNING", "msg": "it is weak"}))
    assert capsys.readouterr().err.split() == ["WARNING:", "it", "is", "weak"]


def test_a_warning_does_not_stand_behind_a_progress_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = logging.makeLogRecord({"levelname": "WARNING", "msg": "the reference is weak"})
    with Progress(10, 0, "joint"):
        screen_handler().handle(said)
    shown = capsys.readouterr().err
    assert shown.index("joint:") < shown.index("WARNING:"), "the bar was there first"
    assert "\rWARNING: the reference is weak\n" in shown
