"""Columns that are subclasses of Tensor, as torchvision's tv_tensors are, keep their type."""

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from jest_loader import ExampleScores, JestDataset, SkipRowsError, TopKSelector
from jest_loader.batch import concat, split, structure, take, to_device
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.exchange import even_out
from jest_loader.ranks.ranks import ranks_of
from jest_loader.testing import batches_equal, simulate_ranks


class Kept(Tensor):
    """A subclass that stays what it is under every operation, as Tensor's own rule has it."""


class Unwrapped(Tensor):
    """A subclass of which every operation makes a plain tensor, even ``to``."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    unit: str


def labelled(rows: Tensor) -> Tensor:
    column = rows.as_subclass(Unwrapped)
    column.unit = "mm"
    return column


def boxes(rows: Tensor, size: int = 8) -> Tensor:
    corners = rows[:, None] * torch.ones(1, 4)
    return tv_tensors.BoundingBoxes(corners, format="XYWH", canvas_size=(size, size))


def image(rows: Tensor) -> Tensor:
    return tv_tensors.Image(rows[:, None, None, None] * torch.ones(1, 3, 4, 4))


MAKERS = {
    "image": image,
    "mask": lambda rows: tv_tensors.Mask(rows[:, None, None] * torch.ones(1, 4, 4)),
    "boxes": boxes,
    "kept": lambda rows: rows.as_subclass(Kept),
    "unwrapped": labelled,
}


def batch_of(rows: list[int]) -> dict[str, Tensor]:
    return {name: make(torch.tensor(rows).float()) for name, make in MAKERS.items()}


def assert_same(found: dict[str, Tensor], rows: list[int]) -> None:
    expected = batch_of(rows)
    assert batches_equal(found, expected)
    for name, column in expected.items():
        assert type(found[name]) is type(column)
        assert found[name].__dict__ == column.__dict__


def test_every_operation_keeps_type_and_attributes():
    batch = batch_of([0, 1, 2, 3])
    assert_same(take(batch, torch.tensor([3, 1])), [3, 1])
    assert_same(concat([batch_of([0, 1]), batch_of([2]), batch_of([3])]), [0, 1, 2, 3])
    first, second = split(batch, 3)
    assert_same(first, [0, 1, 2])
    assert_same(second, [3])
    assert_same(to_device(batch, torch.device("cpu")), [0, 1, 2, 3])
    moved = to_device(batch, torch.device("meta"))
    assert type(moved["unwrapped"]) is Unwrapped
    assert moved["boxes"].canvas_size == (8, 8)


def test_rows_that_move_between_ranks_keep_their_type():
    def run(group):
        first = 4 * group.rank
        candidates = batch_of(list(range(first, first + 4)))
        chosen = torch.tensor([[0, 1, 2], [3]][group.rank])
        return take(*even_out(candidates, chosen, [3, 1], Agreement(ranks_of(group))))

    first, second = simulate_ranks(2, run)
    assert_same(first, [0, 1])
    assert_same(second, [7, 2])


def test_sub_batches_have_the_types_that_the_source_has():
    class ByImage:
        def score(self, super_batch):
            assert type(super_batch["boxes"]) is tv_tensors.BoundingBoxes
            return ExampleScores(super_batch["image"][:, 0, 0, 0].as_subclass(Tensor))

    def materialize(batch):
        if not refused:
            refused.append(True)
            raise SkipRowsError({0: "no picture"})  # Its place is taken by another row.
        return batch

    refused: list[bool] = []
    data = JestDataset(
        [batch_of([0, 1, 2]), batch_of([3, 4, 5])], ByImage(), TopKSelector(),
        super_batch_size=6, sub_batch_size=2, materialize=materialize,
    )  # fmt: skip
    [sub_batch] = data
    assert refused
    assert_same(sub_batch, sub_batch["kept"].int().tolist())


def test_a_parameter_is_a_plain_tensor_once_it_is_taken_from():
    parameter = torch.nn.Parameter(torch.arange(3.0))
    assert type(take({"x": parameter}, torch.tensor([1]))["x"]) is Tensor
    assert structure({"x": parameter}) == structure({"x": torch.zeros(2)})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (boxes(torch.zeros(2), size=9), r"\(canvas_size=\(8, 8\), .* is now .*canvas_size=\(9, 9"),
        (boxes(torch.zeros(2)).as_subclass(Tensor), r"BoundingBoxes\(.* is now tensor of float32"),
        (boxes(torch.zeros(2)).as_subclass(Kept), r"BoundingBoxes\(.* is now Kept of float32"),
    ],
    ids=["other attributes", "no subclass", "another subclass"],
)
def test_batches_of_different_kinds_of_tensors_are_not_joined(other, message):
    source = [{"boxes": boxes(torch.zeros(2))}, {"boxes": other}]
    data = JestDataset(
        source, type("Zero", (), {"score": lambda self, batch: ExampleScores(torch.zeros(4))})(),
        super_batch_size=4, sub_batch_size=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        next(iter(data))
