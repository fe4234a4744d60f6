"""A checkpoint that is not as it was saved, or that nobody could have saved, is refused by name."""

import math
import struct
import zipfile
from dataclasses import replace
from typing import Any

import pytest
import torch

from jest_loader.clip.config.proxy import ProxyConfig
from jest_loader.clip.config.selection import SelectionConfig
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
    config = config_for(folder, folder / "out", steps=2, checkpoint_every=2, eval_every=2)
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=0.5))
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
        (lambda c: c.update(version="\x1b[31m4"), r"of version 7, got \\x1b\[31m4"),
        (lambda c: c.pop("optimizer"), "must hold all of a run, but lacks optimizer"),
        (lambda c: c.pop("watched"), "must hold all of a run, but lacks watched"),
        (lambda c: c.pop("proxy"), "must hold all of a run, but lacks proxy"),
        (lambda c: c.pop("evaluations"), "must hold all of a run, but lacks evaluations"),
        (lambda c: c["config"].pop("loss"), "holds no run that can be: 'loss'"),
        (lambda c: c["config"].update(loss="hinge"), "holds no run that can be: .* got 'hinge'"),
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
        (with_weights(log_scale=torch.tensor([math.nan])), "that are not finite in log_scale"),
        (with_weights(log_scale=torch.tensor([-math.inf])), "that are not finite in log_scale;"),
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


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e5m2], ids=str)
def test_weights_of_another_kind_of_numbers_are_refused(path, dtype):
    changed(path, with_weights(log_scale=torch.tensor([1.0]).to(dtype)))
    with pytest.raises(ValueError, match="has in another kind of numbers log_scale"):
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


def test_records_that_lie_at_one_place_are_refused(path):
    with zipfile.ZipFile(path, "a") as records:
        records.filelist.extend([max(records.filelist, key=lambda info: info.file_size)] * 9)
        records.writestr("more", b"")
    with pytest.raises(ValueError, match="its records must fit into it, got"):
        checkpoint.load(path)


def test_a_list_that_stands_in_many_places_is_walked_once(path):
    shared: list[Any] = [torch.zeros(1)]
    for _ in range(60):
        shared = [shared, shared]
    changed(path, lambda contents: contents.update(theirs=shared))
    checkpoint.load(path)


def resumed(config, folder):
    """The run that goes on from the checkpoint in ``folder``."""
    return start_run(replace(config, out=folder), torch.device("cpu"), Ranks())


def in_optimizer(change, of="optimizer"):
    return lambda contents: change(contents[of])


def of_weight(number, **values):
    return in_optimizer(lambda saved: saved["state"][number].update(values))


def in_group(**values):
    return in_optimizer(lambda saved: saved["param_groups"][1].update(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(optimizer=[]),
            "the optimizer's state for the same weights, .* is none",
        ),
        (
            lambda c: c.update(optimizer={"state": {0: 3}, "param_groups": 7}),
            "optimizer's state .* is none",
        ),
        (in_optimizer(lambda saved: saved["param_groups"].pop()), "is of other groups of weights"),
        (in_group(params=[1, 2]), "own is of other groups of weights"),
        (in_group(lr=math.nan), "has the learning rate nan"),
        (in_group(lr="fast"), "has the learning rate fast"),
        (in_group(betas=(0.5, 0.5)), r"but betas is \(0.5, 0.5\) in place of \(0.9, 0.98\)"),
        (in_group(weight_decay=math.nan), "but weight_decay is nan in place of 0.0"),
        (in_group(maximize=True), "but maximize is True in place of False"),
        (in_group(peak_lr=1e30), r"but peak_lr is 1e\+30 in place of 0.01"),
        (
            in_optimizer(lambda saved: saved["param_groups"][0].pop("peak_lr")),
            "but peak_lr is None in place of 0.01",
        ),
        (in_optimizer(lambda saved: saved["param_groups"][0].pop("lr")), "is none .KeyError: 'lr'"),
        (in_optimizer(lambda saved: saved["state"].clear()), "has nothing of its weights after 2"),
        (in_optimizer(lambda saved: saved["state"].update({99: {}})), "has something of weight 99"),
        (in_optimizer(lambda saved: saved["state"].update({"0": {}})), "has something of weight 0"),
        (in_optimizer(lambda saved: saved["state"][3].pop("exp_avg")), "lacks exp_avg of weight 3"),
        (of_weight(3, exp_avg=torch.zeros(2)), "has exp_avg of weight 3 .* shape .2."),
        (of_weight(3, exp_avg=torch.zeros(16, 16, dtype=torch.int64)), "has exp_avg .*int64"),
        (of_weight(3, exp_avg=torch.full((16, 16), math.nan)), "has exp_avg of weight 3"),
        (
            of_weight(3, exp_avg=torch.full((16, 16), 1e300, dtype=torch.float64)),
            "has exp_avg .*float64",
        ),
        (of_weight(3, exp_avg_sq=-torch.ones(16, 16)), "has exp_avg_sq of weight 3"),
        (of_weight(3, exp_avg_sq=1.0), "is none .AttributeError"),
        (of_weight(3, step=torch.tensor(-1.0)), "has step of weight 3 .*: -1"),
        (of_weight(3, step=torch.tensor(3.0)), "has step of weight 3 .*: 3"),
        (of_weight(3, step=torch.tensor(math.nan)), "has step of weight 3 .*: nan"),
        (of_weight(3, theirs=math.inf), "has theirs of weight 3"),
        (lambda c: c.update(step=1), "must be of one step, but is of step 1 with the data of .* 2"),
        (lambda c: c["loader"].update(num_steps=0), "is of step 2 with the data of step 0"),
        (lambda c: c["loader"].update(epoch=-1), "the state's epoch must be a whole number"),
        (lambda c: c.update(loader=None), "checkpoint of this run, .* .TypeError: 'NoneType'"),
        (with_weights(theirs=torch.zeros(2)), "has in excess theirs"),
        (with_weights(log_scale=torch.tensor([math.nan])), "are not finite in log_scale"),
        (
            lambda c: c["average"].update(log_scale=torch.tensor([math.nan])),
            "a checkpoint's average must .* not finite in log_scale",
        ),
        (lambda c: c.update(average=None), "a checkpoint's average must have its weights by name"),
        (lambda c: c.update(watched=5), "checkpoint of this run, .* .TypeError: 'int'"),
        (lambda c: c.update(watched={}), "checkpoint of this run, .* .KeyError: 'sums'"),
        (
            lambda c: c.update(watched={"sums": {"theirs": 1.0}, "count": 1}),
            "must have a finite sum of each of none, got .*theirs",
        ),
        (lambda c: c["watched"].update(count=-1), "rows of the state of watched columns must be"),
        (lambda c: c.update(evaluations=[{"theirs": 1}]), "checkpoint of this run, .* 'theirs'"),
        (lambda c: c["evaluations"][0].update(selection=torch.ones(2)), "Tensor is not JSON"),
        (lambda c: c["evaluations"][0].update(step=3), "step of an evaluation must .* from 0 to 2"),
        (lambda c: c["evaluations"][0].update(seconds="2"), "must have numbers, got seconds = 2"),
        (
            lambda c: c["evaluations"][0]["metrics"].update({"\x1b[2J": "best"}),
            r"must have numbers, got \\x1b\[2J = best",
        ),
        (lambda c: c.update(reference="\x1b[2J"), r"whose reference was \\x1b\[2J"),
        (
            lambda c: c["config"].update({"\x1b[2J": "a" * 500}),
            r"a run with \\x1b\[2J = a{200}\.\.\. \(500 characters\)",
        ),
        (lambda c: c["config"].update({5: 1}), "a run with 5 = 1"),
    ],
)
def test_a_run_goes_on_from_nothing_that_is_not_its_own(config, tmp_path, path, change, message):
    changed(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        resumed(config, tmp_path)
    assert "\x1b" not in str(caught.value)
    assert str(path) in str(caught.value) or "holds a run" in str(caught.value)


def test_a_run_goes_on_from_its_own(config, tmp_path, path):
    assert resumed(config, tmp_path).step == 2
    # As a release of torch saved it that did not know the option.
    changed(path, in_optimizer(lambda saved: saved["param_groups"][0].pop("maximize")))
    assert resumed(config, tmp_path).step == 2


@pytest.fixture(scope="module")
def of_proxy(config):
    """A run whose proxy scores."""
    proxy = ProxyConfig(4, 8, 1, 8, heads=2, embed_dim=4, lr=1e-2)
    selection = SelectionConfig("joint", "hard_learner", 0.5, 2, scores_with="proxy", proxy=proxy)
    found = replace(config, selection=selection, out=config.out.with_name("of_proxy"))
    train(found)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda proxy: None, None),
        (lambda proxy: proxy["model"].popitem(), "state of an online proxy must .* lacks"),
        (
            lambda proxy: proxy["optimizer"]["state"][0].update(step=torch.tensor(9.0)),
            "a checkpoint's proxy must .* has step of weight 0 of .* 9",
        ),
        (
            lambda proxy: proxy["optimizer"]["param_groups"][0].update(weight_decay=9.0),
            "weight_decay is 9.0 in place of 0.1",
        ),
        (lambda proxy: proxy["scheduler"].update(last_epoch="1"), "last_epoch of a scheduler must"),
    ],
    ids=["own", "weights", "step", "decay", "scheduler"],
)
def test_a_proxy_goes_on_from_its_own_only(of_proxy, tmp_path, change, message):
    (tmp_path / "checkpoint.pt").write_bytes((of_proxy.out / "checkpoint.pt").read_bytes())
    changed(tmp_path / "checkpoint.pt", lambda contents: change(contents["proxy"]))
    if message is None:
        assert resumed(of_proxy, tmp_path).step == 2
        return
    with pytest.raises(ValueError, match=message):
        resumed(of_proxy, tmp_path)
