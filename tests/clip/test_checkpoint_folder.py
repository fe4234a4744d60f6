"""Checkpoints that are kept, and what else must be in them."""

import os
from dataclasses import replace

import pytest
import torch

from jest_loader.clip import train as training
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.loading import build
from jest_loader.clip.loading.build import proxy_of
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.clip.train import train
from jest_loader.scoring.learnability import HardLearner
from jest_loader.scoring.online_proxy import OnlineProxy
from tests.clip_runs import config_for


def names(path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


def test_the_newest_are_kept_under_their_numbers(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", checkpoint_every=2, keep_checkpoints=3)
    train(config)
    kept = ["checkpoint-00000008.pt", "checkpoint-00000010.pt", "checkpoint-00000012.pt"]
    assert names(tmp_path / "run") == [*kept, "checkpoint.pt", "log.jsonl", "metrics.json"]
    steps = [checkpoint.load(tmp_path / "run" / name)["step"] for name in kept]
    assert steps == [8, 10, 12]
    newest, numbered = (tmp_path / "run" / name for name in ("checkpoint.pt", kept[-1]))
    assert newest.samefile(numbered)


def test_a_run_goes_back_to_one_that_was_kept(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", checkpoint_every=4, keep_checkpoints=3)
    whole = train(config)
    path = tmp_path / "run"
    (path / "checkpoint-00000004.pt").rename(path / "checkpoint.pt")
    again = train(config)
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    # Those of later steps were there, and were left until they were written again.
    assert names(path)[:2] == ["checkpoint-00000008.pt", "checkpoint-00000012.pt"]


def test_later_ones_of_a_run_that_was_begun_again_do_not_push_out_its_own(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", checkpoint_every=6, keep_checkpoints=1)
    train(config)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    train(replace(config, steps=6))
    assert names(tmp_path / "run")[:2] == ["checkpoint-00000006.pt", "checkpoint-00000012.pt"]


def test_where_a_file_has_one_name_only_it_is_copied(shards, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    train(config_for(shards, tmp_path / "run", keep_checkpoints=1))
    newest, numbered = (
        tmp_path / "run" / name for name in ("checkpoint.pt", "checkpoint-00000012.pt")
    )
    assert newest.read_bytes() == numbered.read_bytes()
    assert not newest.samefile(numbered)


def test_what_a_killed_process_left_is_deleted(tmp_path):
    (tmp_path / f".checkpoint.pt.{'0a' * 16}.part").write_bytes(b"half")
    (tmp_path / "notes.part").write_text("mine")
    (tmp_path / ".film.mkv.part").write_text("half of it")
    assert CheckpointFolder(tmp_path, keep=0).load() is None
    assert names(tmp_path) == [".film.mkv.part", "notes.part"]


def test_a_full_disk_ends_in_a_sentence_and_leaves_what_was_there(shards, tmp_path, monkeypatch):
    config = config_for(shards, tmp_path / "run", steps=6, checkpoint_every=6)
    train(config)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(contents, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\n#0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written, as where a disk is full"):
        checkpoint.save(tmp_path / "run" / "checkpoint.pt", config, {})
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert names(tmp_path / "run") == ["checkpoint.pt", "log.jsonl", "metrics.json"]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: path.write_text("hello\n"),
            "cannot be read as one .*; move it away, or name another",
        ),
        (lambda path: path.write_bytes(b""), "cannot be read as one"),
        (lambda path: path.write_bytes(b"PK\x03\x04 half"), "cannot be read as one"),
        (lambda path: torch.save({"weight": torch.zeros(2)}, path), "another file of torch's"),
        (lambda path: torch.save({"version": 1}, path), "of version 7, got 1"),
    ],
    ids=["text", "empty", "half", "weights", "older"],
)
def test_what_is_no_checkpoint_is_refused_in_a_sentence(shards, tmp_path, write, message):
    write(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        train(config_for(shards, tmp_path))


@pytest.mark.parametrize("of_data", ["index.json", "zarr.json"])
def test_a_run_does_not_write_among_data_or_over_a_file(shards, tmp_path, of_data):
    (tmp_path / of_data).write_text("{}")
    with pytest.raises(ValueError, match="out must be a folder of the run's own, but"):
        train(config_for(shards, tmp_path))
    with pytest.raises(ValueError, match=r"out must be a folder, but .* is none"):
        train(config_for(shards, tmp_path / of_data))
    assert names(tmp_path) == [of_data]


def test_an_online_proxy_goes_on_where_it_was(shards, tmp_path, monkeypatch):
    def with_a_proxy(config, learner, shards, device):
        model = TwoTower(config.model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return HardLearner(OnlineProxy(model, optimizer), config.loss)

    monkeypatch.setattr(build, "_scorer", with_a_proxy)
    joint = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)
    config = config_for(shards, tmp_path / "whole", selection=joint)
    whole = train(config)
    step, calls = training._train_step, iter(range(100))

    def until_the_eighth(run, batch):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", until_the_eighth)
    stopped = replace(config, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(training, "_train_step", step)
    resumed = train(stopped)
    for one, other in (
        (whole.model, resumed.model),
        (proxy_of(whole.loader).model, proxy_of(resumed.loader).model),
    ):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
