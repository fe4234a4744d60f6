"""Lists that may be columns or rows: read as columns where that is certain, refused elsewhere."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import JestDataset, UniformSelector
from jest_loader.batch import concat, num_examples, split, take

Pair = namedtuple("Pair", ["path", "caption"])
PAIRS = [(f"{n}.jpg", f"caption {n}") for n in range(32)]


def dataset(source):
    return JestDataset(source, None, UniformSelector(), super_batch_size=16, sub_batch_size=8)


def as_lists(pairs):
    paths, captions = zip(*pairs, strict=True)
    return list(paths), list(captions)


@pytest.mark.parametrize(
    "collate_fn",
    [as_lists, default_collate, lambda pairs: list(as_lists(pairs))],
    ids=["pair of lists", "default_collate", "list of lists"],
)
def test_lists_of_one_length_are_columns(collate_fn):
    for paths, captions in dataset(DataLoader(PAIRS, batch_size=8, collate_fn=collate_fn)):
        assert len(paths) == 8
        assert set(zip(paths, captions, strict=True)) <= set(PAIRS)


def test_a_list_of_batches_needs_no_loader():
    source = [as_lists(PAIRS[first : first + 8]) for first in range(0, 32, 8)]
    assert [len(captions) for _, captions in dataset(source)] == [8, 8]


def test_every_operation_sees_the_same_columns():
    batch = (["a", "b", "c"], ["x", "y", "z"])
    assert num_examples(batch) == 3
    assert take(batch, torch.tensor([2, 0])) == (["c", "a"], ["z", "x"])
    assert [*split(batch, 2)] == [(["a", "b"], ["x", "y"]), (["c"], ["z"])]
    assert concat([batch, (["d"], ["w"])]) == (["a", "b", "c", "d"], ["x", "y", "z", "w"])


def test_a_list_in_a_dict_is_one_column_of_lists():
    batch = {"captions": [["one", "two"], ["three", "four"], ["five", "six"]]}
    assert num_examples(batch) == 3
    assert take(batch, torch.tensor([1])) == {"captions": [["three", "four"]]}


@pytest.mark.parametrize(
    "column",
    [
        [{"bytes": b"a", "path": "a.jpg"}, {"bytes": b"b", "path": None}],
        [{"boxes": [1, 2, 3]}, {"boxes": [4, 5, 6]}],
        [Pair("a.jpg", "a"), Pair("b.jpg", "b")],
        [{}, {}],
        [None, {"bytes": b"b"}],
    ],
    ids=["encoded images", "lists in dicts", "named tuples", "empty", "missing"],
)
def test_dicts_of_plain_values_are_the_rows_of_a_column(column):
    batch = {"image": column, "caption": ["x", "y"]}
    assert num_examples(batch) == 2
    assert take(batch, torch.tensor([1])) == {"image": [column[1]], "caption": ["y"]}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([["a", "b"], ["x"]], "holds a list of 2 among 2 values; make collate_fn return a dict"),
        ([["a", "b"], "x"], "holds a list of 2 among 2 values"),
        ([["a", "b"], None], "holds a list of 2 among 2 values"),
        ([{"caption": "a"}, {"caption": "b"}], "holds a dict among 2 values"),
        ([{"boxes": [1, 2]}, {"boxes": [3, 4]}], "holds a dict among 2 values"),
        ([Pair("a", "x"), Pair("b", "y")], "holds a Pair among 2 values"),
        (
            [{"image": torch.zeros(3), "caption": "a"}],
            r"\[0\]\['caption'\] is a single str; .* list of examples, make collate_fn return",
        ),
    ],
    ids=["two lengths", "and a string", "and none", "dicts", "lists in dicts", "tuples", "tensors"],
)
def test_what_may_be_rows_is_refused_with_a_remedy(batch, message):
    with pytest.raises(ValueError, match=message):
        num_examples(batch)


@pytest.mark.parametrize(
    "column",
    [
        torch.eye(4).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
    ids=["sparse", "nested"],
)
def test_tensors_without_rows_in_memory_are_refused(column):
    with pytest.raises(ValueError, match=r"must be dense, but \['x'\] is sparse or nested"):
        num_examples({"x": column})


def test_as_many_lists_as_examples_may_be_rows():
    loader = DataLoader(PAIRS, batch_size=2, collate_fn=list)
    data = JestDataset(loader, None, UniformSelector(), super_batch_size=4, sub_batch_size=2)
    with pytest.raises(ValueError, match="2 lists of 2 values may be columns or rows; make"):
        list(data)


def test_lists_that_default_collate_turned_over_are_refused():
    rows = [{"row": n, "captions": [f"{n}{letter}" for letter in "abcd"]} for n in range(8)]
    with pytest.raises(ValueError, match=r"4 tuples .* rows of column \['captions'\] or, as defau"):
        list(JestDataset(
            DataLoader(rows, batch_size=4), None, UniformSelector(),
            super_batch_size=4, sub_batch_size=2,
        ))  # fmt: skip


def test_rows_that_were_not_collated_are_noticed():
    with pytest.raises(ValueError, match="got 2 where 8 were expected"):
        list(dataset(DataLoader(PAIRS, batch_size=8, collate_fn=list)))


def test_a_short_last_batch_of_columns_is_no_error():
    pairs = PAIRS[:26]  # The last batch is 2 lists of 2 values.
    data = dataset(DataLoader(pairs, batch_size=8, collate_fn=as_lists))
    assert len(list(data)) == 1
    assert data.counts.dropped == 10


class DeviceArray:
    """As JAX's, CuPy's and TensorFlow's arrays look to NumPy."""

    def __init__(self, values) -> None:
        self.values = np.asarray(values)

    @property
    def shape(self):
        return self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, index):
        return DeviceArray(self.values[index])


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        ({"x": DeviceArray([1.0, 2.0])}, r"\['x'\]"),
        ([DeviceArray([1.0, 2.0]), DeviceArray([3.0, 4.0])], r"\[0\]"),
        ({"x": [DeviceArray([1.0]), DeviceArray([2.0])]}, r"\['x'\]\[0\]"),
        (DeviceArray([1.0, 2.0]), "the batch"),
    ],
    ids=["in a dict", "in a list", "one per example", "bare"],
)
def test_arrays_of_other_packages_are_told_to_be_converted(batch, name):
    with pytest.raises(ValueError, match=rf"{name} is a .*DeviceArray; .* np\.asarray\(column\)"):
        num_examples(batch)


def per_example(shape, number, kind=list):
    return kind(torch.zeros(shape) for _ in range(number))


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (per_example((3, 4), 3), "the batch"),
        (per_example((3,), 3), "the batch"),
        ({"image": per_example((3, 4), 3, tuple), "text": ["a", "b", "c"]}, r"\['image'\]"),
        (([torch.zeros(3, n) for n in (4, 5, 6)], ["a", "b", "c"]), r"\[0\]"),
        ([{"image": torch.zeros(3, 4)} for _ in range(3)], "the batch"),
        ({"x": [np.zeros((3, 2)) for _ in range(3)]}, r"\['x'\]"),
    ],
    ids=["a list", "vectors", "a column", "several sizes", "dicts", "arrays"],
)
def test_one_tensor_per_example_is_told_to_be_stacked(batch, name):
    """As many as each of them has rows: they would pass for columns."""
    with pytest.raises(ValueError, match=rf"list of 3 .* {name} .*; stack them"):
        list(
            JestDataset([batch] * 4, None, UniformSelector(), super_batch_size=6, sub_batch_size=3)
        )


def test_one_tensor_per_example_is_told_by_the_batch_size_of_the_loader():
    rows = [torch.zeros(3, 4) for _ in range(32)]
    with pytest.raises(ValueError, match=r"list of 8 .* the batch .*; stack them"):
        list(dataset(DataLoader(rows, batch_size=8, collate_fn=list)))


def test_a_list_of_columns_is_read_where_they_are_of_several_kinds():
    batch = [torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)]  # As default_collate has a pair.
    data = JestDataset([batch] * 4, None, UniformSelector(), super_batch_size=4, sub_batch_size=2)
    assert [len(found) for found in data] == [2, 2]


def test_more_views_than_examples_are_columns():
    views = per_example((2, 3), 5)
    data = JestDataset([views] * 4, None, UniformSelector(), super_batch_size=4, sub_batch_size=2)
    assert [[view.shape for view in found] for found in data] == [[(2, 3)] * 5] * 2


@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_what_default_collate_makes_of_pairs_is_columns(kind):
    """An image and its mask at batch size 2 are two columns, for it transposes what it is given."""
    pairs = [(torch.full((3, 4), float(n)), torch.full((1, 4), float(n))) for n in range(8)]
    data = JestDataset(
        kind(pairs, batch_size=2), None, UniformSelector(), super_batch_size=4, sub_batch_size=2
    )
    for image, mask in data:
        assert image.shape == (2, 3, 4)
        assert torch.equal(image[:, 0], mask[:, 0])
