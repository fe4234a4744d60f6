"""A checkpoint that is not as it was saved, or that nobody could have saved, is refused by name."""

import struct
import zipfile

import pytest
import torch

from jest_loader.clip.saving import checkpoint
from jest_loader.clip.start import start_run
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.ranks.ranks import Ranks
from tests.clip_runs import COLUMNS, config_for, rows

pytestmark = pytest.mark.filterwarnings("ignore:the .*'s logit_scale is:UserWarning")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for part in ("train", "test"):
        write_mds(folder / part, COLUMNS, rows(32))
    config = config_for(folder, folder / "out", steps=2, checkpoint_every=2)
    train(config)
    return config


@pytest.fixture
def path(config, tmp_path):
    """A copy of the run's checkpoint."""
    copied = tmp_path / "checkpoint.pt"
    copied.write_bytes((config.out / "checkpoint.pt").read_bytes())
    return copied


def changed(path, change):
    contents = torch.load(path, weights_only=True)
    change(contents)
    torch.save(contents, path)


def test_a_flipped_bit_of_any_record_is_found(path):
    with zipfile.ZipFile(path) as records:
        found = [info for info in records.infolist() if info.file_size]
    assert len(found) > 30
    whole = path.read_bytes()
    for info in found:
        damaged = bytearray(whole)
        after_names = damaged[info.header_offset + 26 : info.header_offset + 30]
        start = info.header_offset + 30 + sum(struct.unpack("<HH", after_names))
        damaged[start + info.file_size // 2] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a whole checkpoint .* but cannot be read as one"):
            checkpoint.load(path)
        path.write_bytes(whole)
    checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(step=float("nan")), "step must be a whole number from 0 to 2, got nan"),
        (lambda c: c.update(step=-1), "step must be a whole number from 0 to 2, got -1"),
        (lambda c: c.update(step=10**30), "step must be a whole number from 0 to 2, got 10"),
        (lambda c: c.update(step=True), "step must be a whole number"),
        (lambda c: c.update(seconds="long"), "seconds must be a number of at least 0, got 'long'"),
        (lambda c: c.update(config=[]), "holds no run"),
        (lambda c: c.update(version="\x1b[31m4"), r"of version 4, got \\x1b\[31m4"),
        (lambda c: c.pop("optimizer"), "must hold all of a run, but lacks optimizer"),
    ],
)
def test_what_no_run_saves_is_refused(path, change, message):
    changed(path, change)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path)


def with_weights(**weights):
    return lambda contents: contents["model"].update(weights)


def with_sizes(**sizes):
    return lambda contents: contents["config"]["model"].update(sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["model"].pop("log_scale"),
            "of the model that it describes, .* lacks log_scale",
        ),
        (with_weights(theirs=torch.zeros(2)), "has in excess theirs"),
        (with_weights(log_scale=torch.zeros(2)), "has in another shape log_scale"),
        (with_weights(log_scale=3.0), "must describe its model, .* 'numel'"),
        (with_sizes(vision_depth=10**6), r"cannot have vision_depth = 1000000"),
        (with_sizes(text_width=10**9), r"cannot have text_width = 1000000000"),
        (with_sizes(text_width=1024), r"has in another shape text_tower"),
        (with_sizes(text_width="wide"), "must describe its model, .* not supported"),
        (with_sizes(theirs=1), "must describe its model, .* 'theirs'"),
        (lambda c: c["config"].pop("model"), "must describe its model, .*'model'"),
    ],
)
def test_a_model_is_built_only_if_its_weights_are_there(path, change, message):
    changed(path, change)
    with pytest.raises(ValueError, match=message):
        checkpoint.load_model(path)


def test_a_tensor_is_not_larger_than_what_is_stored(path):
    changed(path, with_weights(theirs=torch.zeros(1).expand(2**40)))
    with pytest.raises(ValueError, match=r"must not be larger than what is stored of it"):
        checkpoint.load(path)


def test_records_are_not_inflated(path):
    contents = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as records:
        for name, content in contents.items():
            records.writestr(name, content)
    with pytest.raises(ValueError, match="its records must not be compressed"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(optimizer=[]),
        lambda c: c.update(optimizer={"state": {0: 3}, "param_groups": 7}),
        lambda c: c.update(watched=5),
        lambda c: c.update(evaluations=[{"theirs": 1}]),
        lambda c: c["loader"].update(epoch=-1),
        with_weights(theirs=torch.zeros(2)),
    ],
    ids=["empty", "no groups", "watched", "evaluation", "epoch", "weight"],
)
def test_a_run_goes_on_from_nothing_that_is_not_its_own(config, tmp_path, path, change):
    changed(path, change)
    moved = config_for(config.data.train.parent, tmp_path, steps=2, checkpoint_every=2)
    with pytest.raises(ValueError, match=r"checkpoint|state"):
        start_run(moved, torch.device("cpu"), Ranks())
