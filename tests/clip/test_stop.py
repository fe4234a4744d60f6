"""SIGTERM and a limit of time: a run stops after a step, saved, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from jest_loader.clip import train as training
from jest_loader.clip.stop import Stop, Stopped
from jest_loader.clip.train import train
from tests.clip_runs import config_for


def weights_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoint.pt", weights_only=True)["model"]


def test_pieces_of_a_run_end_as_one_run(shards, tmp_path):
    config = config_for(shards, tmp_path / "whole", steps=6)
    train(config)
    pieces = replace(config, out=tmp_path / "pieces", max_seconds=1e-6)
    for done in range(1, 6):
        with pytest.raises(Stopped, match=rf"stopped for max_seconds = 1e-06, after {done} of 6"):
            train(pieces)
        written = json.loads((tmp_path / "pieces" / "metrics.json").read_text())
        assert (written["finished"], written["steps"]) == (False, done)
    assert train(pieces).step == 6
    whole, pieced = weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces")
    assert all(torch.equal(whole[name], pieced[name]) for name in whole)


def test_time_for_another_step_is_left(monkeypatch):
    """It stops when the longest step so far, but for the first, no longer fits."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Stop(20) as stop:
        asked = []
        for seconds in (9, 1, 3, 1, 1, 1, 1, 1):
            now += seconds
            asked.append((now - 100, stop.why()))
    assert asked[:6] == [(9, None), (10, None), (13, None), (14, None), (15, None), (16, None)]
    assert asked[6] == (17, "for max_seconds = 20")


def test_without_a_limit_it_goes_on():
    with Stop(None) as stop:
        assert stop.why() is None


@pytest.mark.parametrize(
    ("signals", "name", "status"),
    [
        ([signal.SIGTERM], "SIGTERM", 0),
        ([signal.SIGINT], "Ctrl-C", 130),
        ([signal.SIGINT, signal.SIGINT], "Ctrl-C", 130),  # As torchrun passes it on.
        ([signal.SIGINT, signal.SIGTERM], "Ctrl-C", 130),
    ],
)
def test_a_signal_ends_a_run_after_its_step(shards, tmp_path, monkeypatch, signals, name, status):
    config = config_for(shards, tmp_path / "whole")
    train(config)
    step = training._train_step
    calls = iter(range(1, 100))

    def terminated_in_the_seventh(run, batch):
        if next(calls) == 7:
            for number in signals:
                os.kill(os.getpid(), number)
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", terminated_in_the_seventh)
    before = [signal.getsignal(number) for number in signals]
    stopped = replace(config, out=tmp_path / "stopped")
    with pytest.raises(Stopped, match=rf"stopped by {name}, after 7 of 12 steps; .* on") as caught:
        train(stopped)
    assert caught.value.status == status
    assert [signal.getsignal(number) for number in signals] == before
    assert train(stopped).step == 12
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_second_interrupt_ends_it_at_once(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Stop(None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        now += 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.why() == "by Ctrl-C"


def test_a_run_in_another_thread_leaves_signals_alone(shards, tmp_path):
    before, runs = signal.getsignal(signal.SIGTERM), []
    config = config_for(shards, tmp_path / "run", steps=1)
    thread = threading.Thread(target=lambda: runs.append(train(config)))
    thread.start()
    thread.join(60)
    assert [run.step for run in runs] == [1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_the_command_ends_with_status_0_and_names_flags(shards, tmp_path):
    command = (
        f"train --data.train {shards}/train --out {tmp_path}/run --data.batch-size 8 --steps 10000 "
        "--model.image-size 8 --model.channels 1 --model.patch-size 4 --model.vision-width 16 "
        "--model.vision-depth 1 --model.text-width 16 --model.text-depth 0 --device cpu "
        "--log.every 1 --max-seconds"
    )
    program = [sys.executable, "-c", "from jest_loader.cli import main; main()", *command.split()]
    ended = subprocess.run([*program, "0.001"], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("stopped for --max-seconds = 0.001, after 1 of 10000 steps; ")
    process = subprocess.Popen([*program, "600"], stdout=subprocess.PIPE, text=True)
    try:
        log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 200
        while log.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        stdout, _ = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert stdout.startswith("stopped by SIGTERM, after ")
    mistake = subprocess.run(
        [*program, "0.001", "--eval-every", "0"], capture_output=True, text=True, check=False
    )
    assert "--eval-every must be a whole number of at least 1, got 0" in mistake.stderr
