"""Checkpoints that are kept, and what else must be in them."""

import os
from dataclasses import replace

import pytest
import torch

from jest_loader.clip import selection
from jest_loader.clip import train as training
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.clip.selection import proxy_of
from jest_loader.clip.selection_config import SelectionConfig
from jest_loader.clip.train import train
from jest_loader.scorers.learnability import HardLearner
from jest_loader.scorers.models import OnlineProxy
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
    (tmp_path / ".checkpoint.pt.123.part").write_bytes(b"half")
    (tmp_path / "notes.part").write_text("mine")
    assert CheckpointFolder(tmp_path, keep=0).load() is None
    assert names(tmp_path) == ["notes.part"]


def test_an_online_proxy_goes_on_where_it_was(shards, tmp_path, monkeypatch):
    def with_a_proxy(config, learner, shards, device):
        model = config.model.build(config.loss)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return HardLearner(OnlineProxy(model, optimizer), config.loss)

    monkeypatch.setattr(selection, "_scorer", with_a_proxy)
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
