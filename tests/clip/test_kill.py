"""SIGKILL anywhere, and the same command again: the run ends as if nothing had happened."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import dropout, normalize

from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.models.towers import TwoTower
from tests.clip_runs import config_for
from tests.processes import CONTEXT

pytestmark = pytest.mark.slow

TIMES = ("time", "examples_per_s")


class Forgetful(TwoTower):
    """A model that draws from all global generators while it trains."""

    def embed_image(self, *arguments, **keywords):
        embedded = super().embed_image(*arguments, **keywords)
        if not self.training:
            return embedded
        share = 0.1 * (random.random() + np.random.rand())  # noqa: NPY002
        return normalize(dropout(embedded, share), dim=1)


def config_of(shards: Path, out: Path, **changes):
    config = config_for(
        shards,
        out,
        selection=SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2),
        keep_checkpoints=2,
        log=LogConfig(every=1),
    )
    optimizer = replace(config.optimizer, ema_decay=0.9, max_logit_scale=12.0)
    return replace(config, optimizer=optimizer, **changes)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_checkpoint(contents, path) -> None:
    torch.serialization.save(contents, path)
    os.truncate(path, path.stat().st_size // 2)


def half_a_line(log, record) -> None:
    os.write(log._descriptor, json.dumps(record).encode()[:20])


class Place(NamedTuple):
    """Where a process dies.

    Args:
        steps: Steps of which the log then has a line.
        module: Where the function is.
        name: The function's.
        call: The number of the call of it, from 1.
        last: What is done last, with the function's arguments.
    """

    steps: int
    module: str
    name: str
    call: int
    last: Callable[..., None] = lambda *_: None


PLACES = {
    "in step 3, before any checkpoint": Place(2, "train", "backward", 3),
    "in step 9": Place(8, "train", "backward", 9),
    # Of the weights and of their average at step 4, and of the weights at step 8.
    "in an evaluation": Place(8, "train", "evaluate_all", 4),
    "in half of a line of the log": Place(8, "journal.logs", "JsonLines.write", 10, half_a_line),
    "in half of a checkpoint": Place(10, "saving.checkpoint", "torch.save", 2, half_a_checkpoint),
    # After those of the first checkpoint: its number, checkpoint.pt and metrics.json.
    "before a checkpoint has its number": Place(10, "saving.checkpoint", "Path.replace", 4),
    "before the oldest is deleted": Place(12, "saving.checkpoint", "Path.unlink", 1),
    "before a checkpoint is the newest": Place(10, "saving.checkpoint_folder", "_link", 2),
    "after a checkpoint": Place(10, "train", "save_json", 2),
    "before the last metrics": Place(12, "train", "save_json", 4),
}


def die_at(place: Place) -> None:
    """Prepare this process to be killed there."""
    owner = import_module(f"jest_loader.clip.{place.module}")
    *within, name = place.name.split(".")
    for part in within:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), iter(range(1, 1000))

    def counting(*arguments, **keywords):
        if next(calls) == place.call:
            place.last(*arguments)
            kill()
        return function(*arguments, **keywords)

    setattr(owner, name, counting)


def run(shards: Path, out: Path, place: str = "", changes: dict | None = None) -> None:
    from jest_loader.clip import train
    from jest_loader.clip.models import towers

    torch.set_num_threads(1)
    towers.TwoTower = Forgetful  # Which builds the model by this name.
    if place:
        die_at(PLACES[place])
    train.train(config_of(shards, out, **(changes or {})))


def run_in_a_process(*arguments) -> int:
    """Its exit code: minus the signal that killed it."""
    process = CONTEXT.Process(target=run, args=arguments, daemon=True)
    process.start()
    process.join(200)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def lines(out: Path) -> list[dict]:
    """The log without what depends on the clock."""
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if name not in TIMES and not name.endswith("_fraction")
        }
        for line in found
    ]


def assert_same(first: Path, second: Path) -> None:
    """Logs, checkpoints, their names, and metrics are the same but for times."""
    assert lines(first) == lines(second)
    names = [{path.name for path in out.iterdir()} for out in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".pt"):
            contents = [torch.load(out / name, weights_only=True) for out in (first, second)]
            assert_equal(*({**content, "config": {**content["config"], "out": ""}}
                           for content in contents))  # fmt: skip
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (first, second)]
    for key in ("finished", "steps", "flops", "counts"):
        assert metrics[0][key] == metrics[1][key]


def assert_equal(one, other) -> None:
    """Bit for bit, but for what was measured by a clock."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key != "seconds" and not str(key).endswith("_ms"):
                assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory) -> Path:
    """A run of 12 steps that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run_in_a_process(shards, out) == 0
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 13))
    return out


@pytest.mark.parametrize("place", list(PLACES))
def test_a_run_killed_anywhere_goes_on_as_if_it_was_not(shards, whole, tmp_path, place):
    out = tmp_path / "run"
    assert run_in_a_process(shards, out, place) == -signal.SIGKILL
    left = (out / "log.jsonl").read_bytes()
    assert left.count(b'"loss"') == PLACES[place].steps
    if place == "in half of a checkpoint":
        assert [path.name for path in out.glob(".*")] != []
    assert run_in_a_process(shards, out) == 0
    assert_same(whole, out)


def test_a_run_killed_again_and_again_from_outside(shards, tmp_path):
    """At whatever instruction it is, six times, and it writes a checkpoint every three steps."""
    out, changes = tmp_path / "run", {"steps": 60, "checkpoint_every": 3, "eval_every": 20}
    assert run_in_a_process(shards, tmp_path / "whole", "", changes) == 0
    kills = 0
    for _ in range(6):
        process = CONTEXT.Process(target=run, args=(shards, out, "", changes), daemon=True)
        process.start()
        begun, deadline = progress_of(out), time.monotonic() + 200
        while progress_of(out) < begun + 5 and process.is_alive():
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.001)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3
    assert run_in_a_process(shards, out, "", changes) == 0
    assert_same(tmp_path / "whole", out)


def progress_of(out: Path) -> int:
    path = out / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
