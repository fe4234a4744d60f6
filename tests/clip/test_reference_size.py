"""The trainer knows what batch size its reference was trained at, or fits scale and bias."""

import math
from dataclasses import replace

import pytest
import torch

from jest_loader import CachedReference
from jest_loader.clip import train as training
from jest_loader.clip.commands.cache import CacheConfig, cache_command
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.reference_cache.format import read_manifest
from tests.clip_runs import COLUMNS, config_for, rows


@pytest.fixture(scope="module")
def reference(shards, tmp_path_factory):
    """The checkpoint of a reference trained at 8."""
    out = tmp_path_factory.mktemp("reference")
    train(config_for(shards, out, steps=40))
    return out / "checkpoint.pt"


@pytest.fixture(scope="module")
def unknown(reference):
    """The same as if it had been fine-tuned from weights of others."""
    path = reference.with_name("unknown.pt")
    torch.save({**torch.load(reference, weights_only=True), "trained_batch_size": None}, path)
    return path


@pytest.fixture
def old(reference, tmp_path):
    """The same as an earlier release saved it."""
    contents = torch.load(reference, weights_only=True)
    for name in ("trained_batch_size", "calibration", "seen"):
        del contents[name]
    torch.save({**contents, "version": 5}, tmp_path / "old.pt")
    return tmp_path / "old.pt"


def at_four(shards, out, **selection):
    """A run with sub-batches of 4."""
    settings = {"filter_ratio": 0.5, "num_chunks": 2, **selection}
    config = config_for(shards, out, selection=SelectionConfig("joint", **settings), steps=6)
    return replace(config, data=replace(config.data, batch_size=4))


def cached(shards, path, reference, **changes):
    cache_command(CacheConfig(data=shards / "train", checkpoint=reference, out=path, **changes))
    return path


def test_a_checkpoint_and_a_cache_of_it_record_the_batch_size(shards, reference, tmp_path):
    assert checkpoint.load_model(reference).trained_batch_size == 8
    known = cached(shards, tmp_path / "known", reference)
    told = cached(shards, tmp_path / "told", reference, reference_batch_size=16)
    assert CachedReference.open(known).trained_batch_size == 8
    assert CachedReference.open(told).trained_batch_size == 16


@pytest.mark.parametrize("kind", ["checkpoint", "cache", "both"])
def test_a_run_adapts_what_is_recorded_or_said(shards, reference, tmp_path, kind, caplog):
    cache = cached(shards, tmp_path / "cache", reference)
    named = {"reference_checkpoint": reference, "reference_cache": cache}
    if kind != "both":
        named = {f"reference_{kind}": named[f"reference_{kind}"]}
    run = train(at_four(shards, tmp_path / "run", **named))
    assert run.loader.scorer.reference.trained_batch_size == 8
    told = train(at_four(shards, tmp_path / "told", **named, reference_batch_size=16))
    assert told.loader.scorer.reference.trained_batch_size == 16
    assert not said_of_sizes(caplog)
    batch = {"sample_id": torch.arange(4)} if kind == "cache" else prepared(run)
    own, at_four_of = (run.loader.scorer.reference, run.loader.scorer.at_sub_batch_size(4))
    difference = at_four_of.reference.embed(batch).logit_bias - own.embed(batch).logit_bias
    assert float(difference) == pytest.approx(math.log(2))


def said_of_sizes(caplog):
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if "what batch size" in message]


def prepared(run):
    return next(iter(run.loader))


def test_a_reference_of_another_release_is_read_and_its_run_refused(shards, old, tmp_path):
    assert checkpoint.load_model(old).trained_batch_size == 8
    train(at_four(shards, tmp_path / "run", reference_checkpoint=old))
    (tmp_path / "going").mkdir()
    old.rename(tmp_path / "going" / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"a run of version 5, .* go on with the release of jest"):
        train(config_for(shards, tmp_path / "going", steps=40))


def test_an_unknown_size_is_fitted_said_once_and_resumes_exactly(
    shards, unknown, tmp_path, caplog, monkeypatch
):
    config = at_four(shards, tmp_path / "whole", reference_checkpoint=unknown)
    whole = train(config)
    (said,) = said_of_sizes(caplog)
    assert "its scale and bias were fitted to sub-batches of 4, and are" in said
    stopped = replace(config, out=tmp_path / "stopped")
    step, calls = training._train_step, iter(range(100))

    def until_the_third(run, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(replace(stopped, checkpoint_every=1))
    monkeypatch.setattr(training, "_train_step", step)
    # Of data that grew since, another sample would be another fit.
    monkeypatch.setattr("jest_loader.clip.loading.fitting._sample", None)
    resumed = train(replace(stopped, checkpoint_every=1))
    assert resumed.loader.scorer.reference.calibration.batch_size == 4
    assert said_of_sizes(caplog) == [said, said]  # Once in each run.
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["checkpoint", "cache"])
def test_a_fit_is_that_of_the_same_embeddings(shards, unknown, tmp_path, kind):
    cache = cached(shards, tmp_path / "cache", unknown)
    named = unknown if kind == "checkpoint" else cache
    run = train(at_four(shards, tmp_path / "run", **{f"reference_{kind}": named}))
    all_rows = [{"sample_id": torch.arange(96)}]
    expected = CachedReference.open(cache).calibrated(all_rows, 4).calibration
    assert run.loader.scorer.reference.calibration == pytest.approx(expected, abs=0.02)


def test_a_fit_that_cannot_be_made_is_said_and_the_bias_stays(shards, unknown, tmp_path, caplog):
    write_mds(tmp_path / "few" / "train", COLUMNS, rows(12))
    config = at_four(shards, tmp_path / "run", reference_checkpoint=unknown)
    run = train(replace(config, data=replace(config.data, train=tmp_path / "few" / "train")))
    assert run.loader.scorer.reference.trained_batch_size is None
    assert "could not be fitted to sub-batches of 4 (calibrate needs at" in caplog.text
    assert "selection.reference_batch_size where you know it" in caplog.text


def test_a_cache_without_a_size_is_given_it_by_the_same_command(
    shards, reference, unknown, tmp_path, caplog
):
    path = cached(shards, tmp_path / "cache", unknown)
    before = read_manifest(path)
    assert "trained_batch_size" not in before.identity
    assert "fit its scale and bias to their sub-batches" in caplog.text
    cached(shards, path, reference)
    after = read_manifest(path)
    assert after.identity == {**before.identity, "trained_batch_size": "8"}
    assert replace(after, identity=before.identity) == before
    with pytest.raises(ValueError, match=r"trained_batch_size '8', which cannot go on with '16'"):
        cached(shards, path, reference, reference_batch_size=16)


def test_a_size_has_no_effect_without_a_reference_or_a_bias(shards, tmp_path):
    with pytest.raises(ValueError, match="reference_batch_size has no effect while sel"):
        config_for(
            shards,
            tmp_path,
            selection=SelectionConfig("joint", "hard_learner", reference_batch_size=8),
        )
    selection = SelectionConfig("joint", reference_checkpoint=tmp_path, reference_batch_size=8)
    with pytest.raises(ValueError, match="reference_batch_size has no effect while loss is soft"):
        config_for(shards, tmp_path, selection=selection, loss="softmax")
    with pytest.raises(ValueError, match="reference_batch_size must be a whole number of at lea"):
        config_for(shards, tmp_path, selection=replace(selection, reference_batch_size=0))
