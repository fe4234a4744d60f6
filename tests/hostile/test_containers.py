"""Containers and columns that do not come out as they went in: kept, or refused in a sentence."""

from collections import namedtuple
from dataclasses import InitVar, dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from jest_loader.batch import concat, num_examples, split, take, to_numpy


class Named(dict):
    """A dict that is made of more than its values; of these alone it would be empty."""

    def __init__(self, unit, *values) -> None:
        super().__init__(*values)
        self.unit = unit


class NamedList(list):
    def __init__(self, unit, values) -> None:
        super().__init__(values)
        self.unit = unit


@dataclass
class Derived:
    x: Tensor
    twice: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.x


@dataclass
class Made:
    x: Tensor
    scale: InitVar[float]


class Doubled(namedtuple("Doubled", ["x", "twice"])):
    def __new__(cls, x):
        return super().__new__(cls, x, 2 * x)


ROWS = torch.arange(4.0)
ODD = {
    "dict": Named("mm", {"x": ROWS}),
    "list": NamedList("mm", [ROWS, ROWS.long()]),
    "column": {"x": NamedList("mm", "abcd")},
    "init=False": Derived(ROWS),
    "InitVar": Made(ROWS, 2.0),
    "named tuple": Doubled(ROWS),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "operation",
    [
        lambda batch: take(batch, torch.tensor([1, 0])),
        lambda batch: concat([batch, batch]),
        lambda batch: list(split(batch, 2)),
    ],
    ids=["take", "concat", "split"],
)
def test_what_cannot_be_made_again_of_its_parts_is_refused(name, operation):
    kind = r"its type makes again of its parts, but [\w.]+\.(Named|Derived|Made|Doubled)"
    with pytest.raises(ValueError, match=kind):
        operation(ODD[name])


class Captions(list):
    pass


class Pair(tuple):
    __slots__ = ()


def test_kinds_of_lists_stay_what_they_are():
    batch = Pair([{"text": Captions("abcd")}, ROWS])
    first, _ = split(batch, 3)
    for found in (take(batch, torch.tensor([0, 1, 2])), concat([first]), first):
        assert type(found) is Pair
        assert type(found[0]["text"]) is Captions
        assert found[0]["text"] == list("abc")


def test_a_masked_array_is_told_to_be_filled():
    """NumPy joins such arrays without their masks."""
    batch = {"x": np.ma.masked_array(np.arange(4), [0, 1, 0, 0])}
    with pytest.raises(ValueError, match=r"must not be masked, but \['x'\] is; .*filled\(value\)"):
        num_examples(batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_numbers_that_numpy_does_not_have_become_fp32(dtype):
    [array] = to_numpy([tv_tensors.Mask(torch.tensor([0.5, -2.0]).to(dtype))])
    assert (array.dtype, array.tolist()) == (np.float32, [0.5, -2.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8, torch.bool], ids=str)
def test_other_arrays_are_over_the_memory_of_their_tensors(dtype):
    column = torch.zeros(3, dtype=dtype)
    found = to_numpy({"x": column, "text": ["a", "b", "c"]})
    column[0] = 1
    assert found["x"].tolist() == [1, 0, 0]
    assert found["text"] == ["a", "b", "c"]
