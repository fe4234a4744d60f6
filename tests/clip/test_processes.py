"""The trainer over several processes: trains as one does, goes on with any number, ends as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.processes import choose_device
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.step.watched import WatchedColumns
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.ranks.ranks import Ranks
from jest_loader.testing import simulate_ranks
from tests.clip_runs import COLUMNS, config_for, rows
from tests.processes import launch

ROOT = Path(__file__).parents[2]


def config_of(shards: Path, out: Path, **changes):
    """Batches that 1, 2 and 3 processes can share; an epoch ends at step 4."""
    data = DataConfig(shards / "train", shards / "test", batch_size=24, watch_columns=("even",))
    return config_for(shards, out, **{"data": data, "steps": 6, **changes})


@pytest.fixture(scope="module")
def marked(shards, tmp_path_factory) -> Path:
    """The same data with a column to watch."""
    folder = tmp_path_factory.mktemp("marked")
    marks = ({**row, "even": number % 2} for number, row in enumerate(rows(96)))
    write_mds(folder / "train", {**COLUMNS, "even": "int"}, marks)
    (folder / "test").symlink_to(shards / "test")
    return folder


def summary_of(out: Path) -> dict:
    written = json.loads((out / "metrics.json").read_text())
    for evaluation in written["evaluations"]:
        evaluation.pop("seconds")
        evaluation.pop("selection")  # Times, and scores of one rank.
    return {name: value for name, value in written.items() if name not in ("seconds", "config")}


def weights_of(out: Path) -> dict[str, np.ndarray]:
    """Without the biases of keys, whose gradient is zero, so that rounding alone moves them."""
    weights = checkpoint.load(out / "checkpoint.pt")["model"]
    found = {name: value.numpy() for name, value in weights.items()}
    for name in found:
        if name.endswith("qkv.bias"):
            found[name] = np.concatenate(np.split(found[name], 3)[::2])
    return found


def assert_same_run(found: Path, expected: Path) -> None:
    """Weights up to rounding, and all else alike."""
    assert summary_of(found) == summary_of(expected)
    weights = weights_of(found)
    for name, value in weights_of(expected).items():
        np.testing.assert_allclose(weights[name], value, atol=2e-5, err_msg=name)


def train_on(rank: int, config, stop_at: int | None = None, failing: int | None = None):
    """Train, or be interrupted at a step, or fail at it on one rank."""
    import jest_loader.clip.train as module

    step = module._train_step

    def interrupted(run, batch):
        if run.step == stop_at and failing in (None, rank):
            raise KeyboardInterrupt if failing is None else ValueError("out of luck")
        return step(run, batch)

    module._train_step = interrupted
    try:
        run = train(config)
    except KeyboardInterrupt:
        return None
    finally:
        module._train_step = step
    return run.counts, run.flops, {name: w.numpy() for name, w in run.model.state_dict().items()}


def results(ended):
    assert [each.error for each in ended] == [None] * len(ended)
    return [each.result for each in ended]


@pytest.mark.parametrize("micro", [None, 5])
def test_two_processes_train_as_one(marked, tmp_path, micro):
    config = config_of(marked, tmp_path / "one")
    config = replace(config, data=replace(config.data, micro_batch_size=micro))
    alone = train(config)
    first, second = results(launch(2, train_on, replace(config, out=tmp_path / "two")))
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert first[:2] == second[:2] == (alone.counts, alone.flops)
    for name, value in first[2].items():
        assert np.array_equal(value, second[2][name]), name
    watched = [evaluation["watched"] for evaluation in summary_of(tmp_path / "two")["evaluations"]]
    assert watched[0] == {"even": 0.5}
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
        "metrics.json",
    ]


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_with_three(marked, tmp_path):
    config = config_of(marked, tmp_path / "one", checkpoint_every=3)
    train(config)
    config = replace(config, out=tmp_path / "more")
    assert results(launch(2, train_on, config, 5)) == [None, None]
    assert checkpoint.load(tmp_path / "more" / "checkpoint.pt")["step"] == 3
    results(launch(3, train_on, config))
    assert_same_run(tmp_path / "more", tmp_path / "one")


def test_processes_select_together(marked, tmp_path):
    selection = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)
    config = config_of(marked, tmp_path / "run", selection=selection, steps=3)
    first, second = results(launch(2, train_on, config))
    assert first[0].to_dict()["scored"] == 3 * 48
    assert first[0].to_dict()["trained"] == 3 * 24
    assert all(np.array_equal(value, second[2][name]) for name, value in first[2].items())


def test_a_picture_left_out_on_one_rank_makes_numbers_unequal(tmp_path):
    from PIL import Image

    from tests.clip.test_train import png

    columns = {"image": "bytes", "caption": "str"}
    good = [png(Image.fromarray(row["image"])) for row in rows(16)]
    pictures = [b"no picture" if number == 3 else image for number, image in enumerate(good)]
    names = [row["caption"] for row in rows(16)]
    written = (dict(zip(columns, row, strict=True)) for row in zip(pictures, names, strict=True))
    write_mds(tmp_path / "train", columns, written)
    data = DataConfig(tmp_path / "train", batch_size=8, augment=False)
    one, two = (config_of(tmp_path, tmp_path / name, data=data, steps=4) for name in ("1", "2"))
    train(one)
    results(launch(2, train_on, two))
    assert_same_run(tmp_path / "2", tmp_path / "1")
    assert summary_of(tmp_path / "2")["counts"]["skipped"] == 2
    assert summary_of(tmp_path / "2")["counts"]["trained"] == 30


def gloo_threads() -> list[str]:
    names = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def threads_left(rank: int, config, port: int) -> list[str]:
    """Of a process that torchrun started, after its training."""
    if not gloo_threads():
        return ["no names"]
    dist.destroy_process_group()
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    run = train(config)
    assert run.ranks.size == 2
    return gloo_threads()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for threads in /proc")
def test_the_threads_of_the_group_end_with_the_run(marked, tmp_path):
    """One that wants a tensor's object while Python ends aborts the process."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    config = config_of(marked, tmp_path / "run")
    left = results(launch(2, threads_left, config, port))
    if left == [["no names"]] * 2:
        pytest.skip("this PyTorch gives the threads of gloo no names")
    assert left == [[], []]


def test_what_ends_one_process_ends_the_others(marked, tmp_path):
    started = time.monotonic()
    first, second = launch(2, train_on, config_of(marked, tmp_path / "run"), 4, 1)
    assert "ValueError: out of luck" in second.error
    assert "RankError: all ranks must answer" in first.error
    assert time.monotonic() - started < 50


def test_held_out_data_that_rank_0_cannot_use_end_all(marked, tmp_path):
    write_mds(tmp_path / "test", COLUMNS, [next(rows(1))])
    config = config_of(marked, tmp_path / "run")
    config = replace(config, data=replace(config.data, test=tmp_path / "test"))
    first, second = launch(2, train_on, config)
    assert "must have at least 2 distinct captions" in first.error
    assert "RankError: rank 0 of 2 failed while starting, which ends rank 1" in second.error


def torchrun(num_ranks: int, config_arguments: list[str], log: Path) -> subprocess.Popen:
    command = ["torch.distributed.run", "--nproc-per-node", str(num_ranks), "-m", "jest_loader.cli"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command, "train", *config_arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def processes_of(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in text.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_torchrun_trains_and_goes_on_after_kill_9(marked, tmp_path):
    """One process is killed; the other ends by itself or is ended, and the same command goes on."""
    arguments = [
        *("--data.train", str(marked / "train"), "--data.batch-size", "24", "--device", "cpu"),
        *("--steps", "80", "--checkpoint-every", "5", "--optimizer.lr", "1e-4"),
        *("--model.image-size", "8", "--model.channels", "1", "--model.patch-size", "4"),
        *("--model.vision-depth", "1", "--model.context-length", "3", "--model.vocab-size", "64"),
        *("--model.embed-dim", "8"),
    ]
    two = [*arguments, "--out", str(tmp_path / "two")]
    log, saved = tmp_path / "log", tmp_path / "two" / "checkpoint.pt"
    launched = torchrun(2, two, log)
    try:
        deadline = time.monotonic() + 200
        while not saved.is_file():
            assert launched.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(processes_of(launched.pid)[1], signal.SIGKILL)
        assert launched.wait(60) != 0
    finally:
        launched.kill()
    assert checkpoint.load(saved)["step"] < 80
    assert torchrun(2, two, log).wait(200) == 0, log.read_text()
    assert log.read_text().count("80 steps with uniform selection") == 1
    assert torchrun(1, [*arguments, "--out", str(tmp_path / "one")], log).wait(200) == 0
    assert summary_of(tmp_path / "two") == summary_of(tmp_path / "one")
    weights = weights_of(tmp_path / "two")
    for name, value in weights_of(tmp_path / "one").items():
        assert np.abs(weights[name] - value).max() < 1e-3, name


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"there are 2 .* LOCAL_RANK 2; use --nproc-per-node 2"):
        choose_device("auto")


def test_watched_means_are_those_of_all_ranks():
    def run(group):
        watched, mine = WatchedColumns(["mark"]), [[1, 2, 3], [6]][group.rank]
        watched.add({"caption": ["a"] * len(mine), "mark": mine}, Ranks(group))
        return watched.state_dict(), watched.means()

    state = {"sums": {"mark": 12.0}, "count": 4}
    assert simulate_ranks(2, run) == [(state, {"mark": 3.0})] * 2
