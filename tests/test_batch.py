"""Batches of any shape of pytree."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from jest_loader import RaggedBytes
from jest_loader.batch import concat, num_examples, split, structure, take, to_device
from jest_loader.testing import batches_equal

Pair = namedtuple("Pair", ["image", "caption"])


@dataclass
class Record:
    image: torch.Tensor
    extra: Any


def columns_of(rows: list[int]) -> dict[str, Any]:
    """One column of each kind, the content told by the row numbers."""
    ragged = np.empty(len(rows), dtype=object)
    ragged[:] = [np.arange(row % 4) for row in rows]
    return {
        "tensor": torch.tensor(rows)[:, None] * torch.ones(1, 3),
        "array": np.array(rows, dtype=np.float32),
        "text": [f"row {row}" for row in rows],
        "bytes": [bytes([row]) * (row + 1) for row in rows],
        "encoded": RaggedBytes([bytes([row]) * (row + 1) for row in rows]),
        "tokens": [list(range(row % 5)) for row in rows],
        "several captions": [["a", f"{row}"][: 1 + row % 2] for row in rows],
        "ragged": ragged,
        "strings": np.array([f"{row}" * (row % 3 + 1) for row in rows]),
    }


SHAPES = {
    "dict": columns_of,
    "nested": lambda rows: {"a": columns_of(rows), "b": [torch.tensor(rows), columns_of(rows)]},
    "list as default_collate makes it": lambda rows: [torch.tensor(rows), tuple(map(str, rows))],
    "tuple": lambda rows: (torch.tensor(rows), np.array(rows)),
    "named tuple": lambda rows: Pair(torch.tensor(rows), list(map(str, rows))),
    "dataclass": lambda rows: Record(torch.tensor(rows), {"n": np.array(rows)}),
    "default dict": lambda rows: defaultdict(list, a=torch.tensor(rows), b=list(map(str, rows))),
    "ordered dict": lambda rows: OrderedDict(z=torch.tensor(rows), a=list(map(str, rows))),
    "bare tensor": torch.tensor,
    "bare ragged bytes": lambda rows: RaggedBytes([bytes([row]) for row in rows]),
    "in a list": lambda rows: [RaggedBytes([bytes([row]) for row in rows]), list(map(str, rows))],
    "bare list": lambda rows: list(map(str, rows)),
}


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, np.ndarray) and first.dtype == object:
        assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, Record):
        assert_same(vars(first), vars(second))
    elif isinstance(first, list | tuple) and isinstance(
        first[0], torch.Tensor | dict | np.ndarray | RaggedBytes
    ):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert batches_equal({"column": first}, {"column": second})


@pytest.mark.parametrize("shape", list(SHAPES))
def test_take_concat_and_split_keep_structure_and_rows(shape):
    make = SHAPES[shape]
    whole = make(list(range(7)))
    assert num_examples(whole) == 7
    assert_same(take(whole, torch.tensor([5, 0, 3])), make([5, 0, 3]))
    assert_same(concat([make([0, 1, 2]), make([3]), make([4, 5, 6])]), whole)
    parts = list(split(whole, 3))
    assert [num_examples(part) for part in parts] == [3, 3, 1]
    assert_same(concat(parts), whole)


def test_columns_are_joined_by_name_whatever_the_order_of_keys():
    """Of one shape they would be mixed up without a word."""
    x, a, b = (torch.full((2, 3), float(value)) for value in range(3))
    one, other = {"x": x, "y": {"a": a, "b": b}}, {"y": {"b": b, "a": a}, "x": x}
    joined = concat([one, other, one])
    assert list(joined) == ["x", "y"]
    assert joined["x"].unique().tolist() == [0]
    assert joined["y"]["a"].unique().tolist() == [1]
    assert joined["y"]["b"].unique().tolist() == [2]


def test_taking_leaves_the_batch_as_it_was():
    batch = columns_of([0, 1, 2])
    sub_batch = take(batch, torch.tensor([2]))
    sub_batch["tensor"].zero_()
    sub_batch["array"][:] = -1
    assert_same(batch, columns_of([0, 1, 2]))


def test_structure_tells_batches_that_cannot_be_joined():
    batch = {"image": torch.zeros(2, 3, 8, 8), "text": ["a", "b"]}
    assert structure(batch) == structure({"image": torch.ones(5, 3, 8, 8), "text": ["c"] * 5})
    others = [
        {"image": torch.zeros(2, 3, 8, 9), "text": ["a", "b"]},
        {"image": torch.zeros(2, 3, 8, 8).half(), "text": ["a", "b"]},
        {"image": np.zeros((2, 3, 8, 8)), "text": ["a", "b"]},
        {"image": torch.zeros(2, 3, 8, 8), "text": ("a", "b")},
        {"image": torch.zeros(2, 3, 8, 8)},
        {"image": torch.zeros(2, 3, 8, 8), "text": RaggedBytes([b"a", b"b"])},
    ]
    for other in others:
        assert structure(other) != structure(batch)


def test_to_device_moves_tensors_and_leaves_the_rest():
    moved = to_device({"x": torch.zeros(2), "n": [np.zeros(2), ["a", "b"]]}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["n"][1] == ["a", "b"]


@pytest.mark.parametrize(("device", "waits"), [("cpu", True), ("meta", False)])
def test_only_copies_to_the_host_are_waited_for(device, waits):
    """One that is not waited for may be read before it is there."""
    asked = []

    class Asked(torch.Tensor):
        def to(self, *_, non_blocking):
            asked.append(non_blocking)
            return torch.zeros(2)

    to_device({"x": torch.zeros(2).as_subclass(Asked)}, torch.device(device))
    assert asked == [not waits]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "at least one column .* got an empty dict"),
        (
            {"a": torch.zeros(3), "b": ["x"]},
            r"same number of rows, but \['a'\] has 3, \['b'\] has 1",
        ),
        ([torch.zeros(n) for n in range(1, 9)], r"\[3\] has 4 and 4 more; stack a list"),
        ([torch.zeros(3), torch.zeros(2)], r"\[0\] has 3, \[1\] has 2.*dtype object"),
        ({"a": [torch.zeros(3)] * 4, "b": ["x"] * 4}, "; stack a list of one tensor per example"),
        ({"a": torch.zeros(3), "b": 5}, r"\['b'\] is a single int; drop it"),
        ({"a": torch.tensor(1.0)}, r"\['a'\] is a single Tensor"),
        ({"a": "caption"}, r"\['a'\] is a single str"),
        (None, "the batch is a single NoneType"),
    ],
)
def test_what_is_not_a_batch_is_refused_in_a_sentence(batch, message):
    with pytest.raises(ValueError, match=message):
        num_examples(batch)


def test_micro_batches_have_at_least_a_row():
    with pytest.raises(ValueError, match="at least one row, got size 0"):
        split({"x": torch.zeros(4)}, 0)  # Before the first is asked for.
