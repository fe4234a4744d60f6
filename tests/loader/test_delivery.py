"""What JestDataset delivers, when it reads, and what it keeps alive."""

import gc
import threading
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import (
    ExampleScores,
    JestDataset,
    TopKSelector,
    UniformSelector,
)
from tests.helpers import Counting, jest_dataset, numbered_batches
from tests.loader.builders import ByNumber, Rows, dataset, numbers


def test_the_best_rows_of_a_super_batch_come_in_the_order_drawn():
    delivered = list(dataset(numbered_batches(6, 4)))
    assert numbers(delivered) == [[7, 6, 5, 4], [15, 14, 13, 12], [23, 22, 21, 20]]
    assert delivered[0]["caption"] == ["row 7", "row 6", "row 5", "row 4"]


def test_a_dataloader_is_wrapped_as_it_is():
    loader = DataLoader(Rows(64), batch_size=16, shuffle=True)
    wrapped = jest_dataset(loader, ByNumber(), super_batch_size=32, sub_batch_size=8)
    batches = list(wrapped)
    assert len(batches) == len(wrapped) == 2
    for batch in batches:
        assert batch["caption"] == [f"row {number}" for number in batch["number"].tolist()]


def test_tuples_as_default_collate_makes_them_stay_what_they_are():
    pairs = [(torch.tensor([row, row]), f"row {row}") for row in range(16)]
    loader = DataLoader(pairs, batch_size=4)

    class Scorer:
        def score(self, super_batch):
            return ExampleScores(super_batch[0][:, 0].double())

    (numbers_, captions), _ = jest_dataset(
        loader, Scorer(), TopKSelector(), super_batch_size=8, sub_batch_size=2
    )
    assert numbers_.tolist() == [[7, 7], [6, 6]]
    assert list(captions) == ["row 7", "row 6"]


def test_materialize_sees_the_chosen_rows_only():
    seen = []

    def materialize(sub_batch):
        seen.append(sub_batch["number"].tolist())
        return "done"

    assert list(dataset(numbered_batches(2, 4), materialize=materialize)) == ["done"]
    assert seen == [[7, 6, 5, 4]]


def test_a_scorer_that_learns_is_given_each_sub_batch():
    class Learning(ByNumber):
        def __init__(self):
            self.updates = []

        def update(self, sub_batch):
            assert torch.is_grad_enabled()
            self.updates.append(sub_batch["number"].tolist())

    scorer = Learning()
    list(
        jest_dataset(
            numbered_batches(4, 4), scorer, TopKSelector(), super_batch_size=8, sub_batch_size=2
        )
    )
    assert scorer.updates == [[7, 6], [15, 14]]


def test_scoring_makes_no_graph():
    class Recording(ByNumber):
        def score(self, super_batch):
            assert not torch.is_grad_enabled()
            return super().score(super_batch)

    list(jest_dataset(numbered_batches(2, 4), Recording(), super_batch_size=8, sub_batch_size=2))


def test_nothing_is_read_before_the_first_next():
    reads = []

    class Source:
        def __iter__(self):
            reads.append("read")
            return iter(numbered_batches(2, 4))

    iterator = iter(dataset(Source()))
    assert not reads
    next(iterator)
    assert reads == ["read"]


def test_it_runs_inside_a_dataloader_of_the_main_process():
    data = dataset(numbered_batches(4, 4))
    assert numbers(DataLoader(data, batch_size=None, num_workers=0)) == numbers(
        dataset(numbered_batches(4, 4))
    )


def test_inside_a_dataloader_worker_it_says_what_to_do():
    loader = DataLoader(dataset(numbered_batches(4, 4)), batch_size=None, num_workers=1)
    with pytest.raises(ValueError, match=r"must run in the training process.*num_workers=0"):
        list(loader)


def test_a_broken_off_pass_leaves_no_threads_or_files():
    before = set(threading.enumerate())
    data = dataset(Counting(6, 4))
    for _ in data:
        break
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # A busy machine; a thread that stays does not end by then.
    assert set(threading.enumerate()) <= before  # Threads of earlier tests may end meanwhile.


def test_the_super_batch_is_let_go_while_its_sub_batch_is_trained_on():
    scored = []

    class Recording(ByNumber):
        def score(self, super_batch):
            scored.append(weakref.ref(super_batch["number"]))
            return super().score(super_batch)

    data = jest_dataset(
        numbered_batches(4, 4), Recording(), TopKSelector(), super_batch_size=8, sub_batch_size=2
    )
    for _ in data:
        assert scored[-1]() is None


def test_a_dataset_says_what_it_is_and_where_it_stands():
    data = dataset(DataLoader(Rows(32), batch_size=4))
    batches = iter(data)
    next(batches), next(batches)
    assert repr(data) == (
        "JestDataset(source=DataLoader, scorer=ByNumber, selector=TopKSelector, "
        "super_batch_size=8, sub_batch_size=4, filter_ratio=0.5, epoch=0, super_batches=2)"
    )
    uniform = JestDataset(
        [{"x": torch.zeros(3)}], None, UniformSelector(), super_batch_size=3, sub_batch_size=1
    )
    assert "scorer=None, selector=UniformSelector, " in repr(uniform)
    assert "filter_ratio=0.6667, epoch=0, super_batches=0)" in repr(uniform)
