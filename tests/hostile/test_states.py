"""A damaged state ends in one sentence, or in exactly the order that was saved."""

import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import JestDataset, UniformSelector
from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_mds
from tests.helpers import Counting
from tests.loader.builders import dataset

BAD = [
    None, True, False, -1, 0, 1, 2, 10**30, 1.0, math.nan, math.inf, "", "1", "\x1b[2J", [], {},
    [1], {"a": 1}, b"1", object(), np.arange(2), torch.arange(2),
]  # fmt: skip


def leaves(state, path=()):
    for name, value in state.items() if isinstance(state, dict) else ():
        yield (*path, name)
        yield from leaves(value, (*path, name))


def changed(state, path, value):
    state = copy.deepcopy(state)
    inner = state
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return state


def damaged(state):
    yield from BAD
    for path in leaves(state):
        for value in BAD:
            yield changed(state, path, value)
        inner = state = copy.deepcopy(state)
        for name in path[:-1]:
            inner = inner[name]
        removed = inner.pop(path[-1])
        yield copy.deepcopy(state)
        inner[path[-1]] = removed
        inner["more"] = 1
        yield copy.deepcopy(state)
        del inner["more"]


def assert_named_or_exact(make, state, expected):
    """Each damage of a state is refused in a sentence, or changes nothing."""
    refused = 0
    for bad in damaged(state):
        try:
            loaded = make()
            loaded.load_state_dict(bad)
            batch = next(iter(loaded))
        except ValueError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 1000
            assert "\x1b" not in message
            assert "state" in message, message
            refused += 1
        else:
            assert batch["sample_id"].tolist() == expected, bad
    assert refused > 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    rows = [{"x": number, "y": -number} for number in range(24)]
    for name in ("mds", "mds2"):
        write_mds(path / name, {"x": "int", "y": "int"}, rows)
    return path


def mixture(folder):
    streams = [
        MdsStream(folder / "mds", proportion=0.5),
        MdsStream(folder / "mds2", proportion=0.5),
    ]
    return MdsSource(streams, batch_size=4)


def write_group(path):
    import zarr

    group = zarr.open_group(path, mode="w")
    for name in ("x", "y"):
        group.create_array(name, data=np.arange(24), chunks=(6,))
    return path


@pytest.mark.parametrize("kind", ["mds", "mixture", "zarr"])
def test_damaged_states_of_sources_are_refused(folder, kind, tmp_path):
    def make():
        if kind == "mixture":
            return mixture(folder)
        if kind == "zarr":
            return ZarrSource(group, batch_size=4)
        return MdsSource(folder / "mds", batch_size=4)

    group = write_group(tmp_path / "zarr")
    source = make()
    batches = iter(source)
    next(batches)
    state = source.state_dict()
    expected = next(batches)["sample_id"].tolist()
    assert_named_or_exact(make, state, expected)


def test_damaged_states_of_a_dataset_are_refused(folder):
    def make():
        source = MdsSource(folder / "mds", batch_size=4)
        return JestDataset(source, None, UniformSelector(), super_batch_size=8, sub_batch_size=2)

    data = make()
    batches = iter(data)
    next(batches)
    state = data.state_dict()
    expected = next(batches)["sample_id"].tolist()
    assert_named_or_exact(make, state, expected)


@pytest.mark.parametrize("epoch", [None, -1, True, 10**30, "0", math.nan])
def test_a_datasets_numbers_are_named(epoch):
    data = dataset(Counting(4, 4))
    next(iter(data))
    with pytest.raises(ValueError, match="the state's epoch must be a whole number"):
        dataset(Counting(4, 4)).load_state_dict({**data.state_dict(), "epoch": epoch})


def test_a_datasets_state_that_is_nested_without_end_is_refused():
    data = dataset(Counting(4, 4))
    next(iter(data))
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for name in data.state_dict():
        with pytest.raises(ValueError, match=r"state .*must (be|have) .*(; load|; make)"):
            dataset(Counting(4, 4)).load_state_dict({**data.state_dict(), name: nested})


def test_a_position_that_is_not_the_saved_one_is_refused():
    data = dataset(Counting(4, 4))
    next(iter(data))
    with pytest.raises(ValueError, match="its digest does not fit"):
        dataset(Counting(4, 4)).load_state_dict({**data.state_dict(), "epoch": 1})
    with pytest.raises(ValueError, match="super_batches must be at most its num_steps"):
        dataset(Counting(4, 4)).load_state_dict({**data.state_dict(), "super_batches": 9})


def test_states_pass_through_json_and_torch_save(folder):
    data = dataset(Counting(4, 4))
    next(iter(data))
    state = data.state_dict()
    dataset(Counting(4, 4)).load_state_dict(json.loads(json.dumps(state, sort_keys=True)))

    def make():
        loader = StatefulDataLoader(list(range(40)), batch_size=4, shuffle=True)
        return JestDataset(loader, None, UniformSelector(), super_batch_size=8, sub_batch_size=2)

    data = make()
    next(iter(data))
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    make().load_state_dict(state)
    state["source"]["_num_yielded"] = 7
    with pytest.raises(ValueError, match="its digest does not fit"):
        make().load_state_dict(state)


def test_a_state_is_loaded_under_other_columns(folder, tmp_path):
    group = write_group(tmp_path / "zarr")
    for make, path in ((MdsSource, folder / "mds"), (ZarrSource, group)):
        saved = make(path, batch_size=4)
        batches = iter(saved)
        next(batches)
        state, expected = saved.state_dict(), next(batches)["sample_id"].tolist()
        narrow = make(path, columns=["x"], batch_size=4)
        narrow.load_state_dict(state)
        assert next(iter(narrow))["sample_id"].tolist() == expected
