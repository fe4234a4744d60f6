"""JestDataset: what it delivers, what it counts, where it goes on, and what it refuses."""

import gc
import json
import threading
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from jest_loader import (
    Counts,
    ExampleScores,
    IndependentSelector,
    JestDataset,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.testing import assert_resumes_exactly, batches_equal
from tests.helpers import Counting, numbered_batches


class ByNumber:
    """Scores a row by its number."""

    def score(self, super_batch):
        return ExampleScores(super_batch["number"].float() / 10)


class Rows(Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict:
        return {"number": torch.tensor(row), "caption": f"row {row}"}


def dataset(source, selector=None, **options):
    options = {"super_batch_size": 8, "sub_batch_size": 4, **options}
    return JestDataset(source, ByNumber(), selector or TopKSelector(), **options)


def numbers(batches) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]


# What is delivered


def test_the_best_rows_of_each_super_batch_are_delivered_in_the_order_drawn():
    delivered = list(dataset(numbered_batches(6, 4)))
    assert numbers(delivered) == [[7, 6, 5, 4], [15, 14, 13, 12], [23, 22, 21, 20]]
    assert delivered[0]["caption"] == ["row 7", "row 6", "row 5", "row 4"]


def test_a_dataloader_is_wrapped_as_it_is():
    loader = DataLoader(Rows(64), batch_size=16, shuffle=True)
    wrapped = JestDataset(loader, ByNumber(), super_batch_size=32, sub_batch_size=8)
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

    (numbers_, captions), _ = JestDataset(
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
        JestDataset(
            numbered_batches(4, 4), scorer, TopKSelector(), super_batch_size=8, sub_batch_size=2
        )
    )
    assert scorer.updates == [[7, 6], [15, 14]]


def test_scoring_makes_no_graph():
    class Recording(ByNumber):
        def score(self, super_batch):
            assert not torch.is_grad_enabled()
            return super().score(super_batch)

    list(JestDataset(numbered_batches(2, 4), Recording(), super_batch_size=8, sub_batch_size=2))


def test_each_epoch_draws_anew_and_the_same_seed_draws_the_same():
    def run(seed):
        data = JestDataset(
            numbered_batches(4, 8), None, UniformSelector(), super_batch_size=16, sub_batch_size=5,
            seed=seed,
        )  # fmt: skip
        return [numbers(data) for _ in range(3)]

    first, second = run(0), run(1)
    assert first == run(0)
    assert len({str(epoch) for epoch in first + second}) == 6


def test_counts_are_kept_apart():
    data = dataset(numbered_batches(7, 4))
    assert data.counts == Counts()
    list(data)
    assert data.counts == Counts(loaded=28, scored=24, trained=12, dropped=4)
    list(data)
    assert data.counts == Counts(loaded=56, scored=48, trained=24, dropped=8)
    unscored = JestDataset(
        numbered_batches(2, 4), None, UniformSelector(), super_batch_size=8, sub_batch_size=4
    )
    list(unscored)
    assert unscored.counts == Counts(loaded=8, scored=0, trained=4, dropped=0)
    assert dataset(numbered_batches(2, 4), sub_batch_size=2).filter_ratio == 0.75


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (numbered_batches(7, 4), 3),
        ([*numbered_batches(5, 4), {"number": torch.arange(3), "caption": ["x"] * 3}], 2),
        (DataLoader(Rows(31), batch_size=4), 3),
        (DataLoader(Rows(31), batch_size=4, drop_last=True), 3),
        (StatefulDataLoader(Rows(32), batch_size=4), 4),
    ],
    ids=["list", "list with a short end", "loader", "loader, drop_last", "stateful loader"],
)
def test_length_is_the_number_of_sub_batches(source, expected):
    data = dataset(source)
    assert len(data) == len(list(data)) == expected


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Rows(31)[row] for row in range(31))


class SizedStream(Stream):
    def __len__(self):
        return 31


def test_no_length_without_one():
    data = dataset(DataLoader(Stream(), batch_size=4))
    with pytest.raises(TypeError, match="has no len"):
        len(data)
    assert len(list(data)) == 3
    sized = dataset(DataLoader(SizedStream(), batch_size=4))
    assert len(sized) == len(list(sized)) == 3
    with pytest.raises(TypeError, match="does not have both"):
        len(dataset(iter(numbered_batches(2, 4))))


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


# Epochs


def test_passes_are_consecutive_epochs_also_after_a_break():
    source = Counting(4, 4)
    data = dataset(source, sub_batch_size=1)
    assert numbers(data) == [[7], [15]]
    for batch in data:
        assert batch["number"].tolist() == [23]
        break
    assert numbers(data) == [[39], [47]]


def test_set_epoch_starts_that_epoch_and_is_nothing_when_in_it():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    data.set_epoch(5)
    assert numbers(data) == [[87], [95]]
    data.set_epoch(6)
    iterator = iter(data)
    assert next(iterator)["number"].tolist() == [103]
    data.set_epoch(6)
    assert next(iterator)["number"].tolist() == [111]
    data.set_epoch(0)
    assert numbers(data) == [[7], [15]]
    state = data.state_dict()
    assert state["epoch"] == 1
    data.set_epoch(1)
    data.load_state_dict(state)
    data.set_epoch(1)
    assert numbers(data) == [[23], [31]]


def test_set_epoch_keeps_a_loaded_position_in_that_epoch():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    next(iter(data))
    state = data.state_dict()
    for epoch, expected in ((0, [[15]]), (2, [[39], [47]])):
        resumed = dataset(Counting(4, 4), sub_batch_size=1)
        resumed.load_state_dict(state)
        resumed.set_epoch(epoch)
        assert numbers(resumed) == expected


def test_an_older_iterator_ends_with_an_error():
    data = dataset(Counting(6, 4))
    older = iter(data)
    next(older)
    next(iter(data))
    with pytest.raises(RuntimeError, match="use the newest iterator"):
        next(older)
    current = iter(data)
    next(current)
    data.load_state_dict(data.state_dict())
    with pytest.raises(RuntimeError, match="use the newest iterator"):
        next(current)


def test_a_broken_off_pass_leaves_no_threads_or_files():
    before = threading.active_count()
    data = dataset(Counting(6, 4))
    for _ in data:
        break
    gc.collect()
    assert threading.active_count() == before


# State


def test_state_is_small_plain_json_of_the_last_batch_delivered():
    data = dataset(Counting(6, 4))
    before = data.state_dict()
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    assert before["super_batches"] == 0
    assert (state["epoch"], state["super_batches"]) == (0, 1)
    assert state["source"] == {"epoch": 0, "position": 2}
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 4096
    assert data.state_dict(num_samples=4, from_beginning=True) == state


@pytest.mark.parametrize("selector", [JointSelector(), IndependentSelector(), UniformSelector()])
def test_resume_is_exact_from_every_position(selector):
    assert_resumes_exactly(
        lambda: dataset(Counting(7, 4), selector, sub_batch_size=3), num_epochs=3
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact_around_a_stateful_dataloader(num_workers):
    rows = Rows(39)

    def make():
        sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(3))
        loader = StatefulDataLoader(rows, batch_size=4, sampler=sampler, num_workers=num_workers)
        return dataset(loader, JointSelector(2), sub_batch_size=3)

    assert_resumes_exactly(make, num_epochs=2 if num_workers else 3)


def test_the_resume_check_catches_a_source_that_forgets():
    class Forgetful(Counting):
        def load_state_dict(self, state_dict):
            super().load_state_dict({**state_dict, "position": max(0, state_dict["position"] - 1)})

    with pytest.raises(AssertionError, match="resumed after"):
        assert_resumes_exactly(lambda: dataset(Forgetful(6, 4)))


def test_a_state_saved_before_the_first_batch_is_the_one_that_was_loaded():
    source = Counting(10, 4)
    before = dataset(source)
    batches = iter(before)
    next(batches), next(batches)
    state = before.state_dict()
    after = dataset(Counting(10, 4))
    after.load_state_dict(state)
    assert after.state_dict() == state
    after.close()
    assert after.state_dict() == state


def test_a_loaded_state_is_used_once():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    next(iter(data))
    resumed = dataset(Counting(4, 4), sub_batch_size=1)
    resumed.load_state_dict(data.state_dict())
    assert numbers(resumed) == [[15]]
    assert numbers(resumed) == [[23], [31]]
    assert resumed.counts.trained == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rollback_to_before_the_first_batch_of_a_shuffled_loader(num_workers):
    loader = StatefulDataLoader(Rows(40), batch_size=4, shuffle=True, num_workers=num_workers)
    data = dataset(loader)
    state = data.state_dict()
    expected = numbers(data)
    data.load_state_dict(state)
    assert numbers(data) == expected


def test_the_super_batch_is_let_go_while_its_sub_batch_is_trained_on():
    scored = []

    class Recording(ByNumber):
        def score(self, super_batch):
            scored.append(weakref.ref(super_batch["number"]))
            return super().score(super_batch)

    data = JestDataset(
        numbered_batches(4, 4), Recording(), TopKSelector(), super_batch_size=8, sub_batch_size=2
    )
    for _ in data:
        assert scored[-1]() is None


def test_a_state_without_its_sources_is_refused():
    data = dataset(Counting(4, 4))
    next(iter(data))
    state = {**data.state_dict(), "source": None}
    with pytest.raises(ValueError, match="must hold the source's state, but it is empty"):
        dataset(Counting(4, 4)).load_state_dict(state)
    with pytest.raises(ValueError, match="must have version 2, got NoneType"):
        dataset(Counting(4, 4)).load_state_dict(None)


def test_whole_numbers_of_numpy_make_a_plain_state():
    data = dataset(Counting(4, 4), super_batch_size=np.int64(8), seed=np.int32(3))
    next(iter(data))
    assert json.loads(json.dumps(data.state_dict()))["counts"]["loaded"] == 8


def test_the_epoch_is_known_after_a_resume():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    list(data)
    next(iter(data))
    resumed = dataset(Counting(4, 4), sub_batch_size=1)
    resumed.load_state_dict(data.state_dict())
    delivered = []
    for epoch in range(resumed.epoch, 3):
        resumed.set_epoch(epoch)
        delivered += numbers(resumed)
    assert delivered == [[31], [39], [47]]


def test_rollback_in_the_same_process():
    data = dataset(Counting(6, 4))
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    expected = next(iterator)
    list(data)
    for _ in range(2):
        data.load_state_dict(state)
        assert batches_equal(next(iter(data)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "must have version 2, got 0"),
        (
            {"configuration": {"super_batch_size over all ranks": 16}},
            "super_batch_size over all ranks was 16 and is now 8",
        ),
        ({"counts": None}, "it lacks counts"),
    ],
)
def test_states_that_do_not_fit_are_refused(change, message):
    state = dataset(Counting(4, 4)).state_dict()
    for name, value in change.items():
        if value is None:
            del state[name]
        elif isinstance(value, dict):
            state[name].update(value)
        else:
            state[name] = value
    with pytest.raises(ValueError, match=message):
        dataset(Counting(4, 4)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"source": Counting(8, 2)}, "source batch size over all ranks was 4 and is now 2"),
        ({"sub_batch_size": 2}, "sub_batch_size over all ranks was 4 and is now 2"),
        ({"selector": JointSelector(8)}, "selector was TopKSelector and is now JointSelector"),
    ],
)
def test_another_configuration_is_refused(options, message):
    state = dataset(Counting(4, 4)).state_dict()
    options = {"source": Counting(4, 4), **options}
    with pytest.raises(ValueError, match=message):
        dataset(**options).load_state_dict(state)


def test_a_source_without_state_says_so_and_what_to_use():
    data = dataset(DataLoader(Rows(16), batch_size=4))
    for use in (data.state_dict, lambda: data.load_state_dict({})):
        with pytest.raises(ValueError, match=r"of a DataLoader can be neither.*StatefulDataLoader"):
            use()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sub_batch_size": 9}, "at most super_batch_size, got 9 and 8"),
        ({"sub_batch_size": 0}, "sub_batch_size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"super_batch_size": 8.0}, "super_batch_size must be a whole number .* got 8.0"),
        ({"materialize": "decode"}, "materialize must be a function or None, got 'decode'"),
        ({"super_batch_size": 10}, "multiple of the source's batch size, got 10 and 4; use 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(DataLoader(Rows(16), batch_size=4), **options)


@pytest.mark.parametrize(
    ("source", "scorer", "selector", "message"),
    [
        (5, ByNumber(), TopKSelector(), "source must be an iterable of batches, got int"),
        (
            [],
            torch.nn.Linear(2, 2),
            TopKSelector(),
            r"scorer must be an object with a score.*got Linear.*wrap",
        ),
        ([], ByNumber, TopKSelector(), r"scorer must be an object .* got type; wrap"),
        (
            [],
            ByNumber(),
            TopKSelector,
            r"selector must be an object .* use one like JointSelector\(\)",
        ),
        ([], ByNumber(), "joint", "selector must be an object with a select method, got 'joint'"),
        ([], None, JointSelector(), "scorer=None goes with UniformSelector only, got JointSel"),
    ],
    ids=["source", "scorer", "scorer class", "selector class", "selector", "no scorer"],
)
def test_parts_that_cannot_go_together_are_refused(source, scorer, selector, message):
    with pytest.raises(ValueError, match=message):
        JestDataset(source, scorer, selector, super_batch_size=8, sub_batch_size=4)


def changed(batches, index, **columns):
    batches[index] = {**batches[index], **columns}
    return batches


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (numbered_batches(0, 4), "the source is empty: it yielded no batch in epoch 0"),
        (numbered_batches(1, 4), "ended after 4 examples and super_batch_size is 8"),
        (numbered_batches(3, 3), "multiple of the source's batch size, got 8 and 3; use 9"),
        (
            [*numbered_batches(1, 6), *numbered_batches(1, 2)],
            "multiple of the source's batch size, got 8 and 6; use 6",
        ),
        (
            [*numbered_batches(1, 4), *numbered_batches(1, 2), *numbered_batches(2, 4)],
            "same number of rows, got 2 where 4 were expected",
        ),
        (
            changed(numbered_batches(2, 4), 1, number=torch.zeros(4)),
            r"column \['number'\] was tensor of int64 rows \(\) and is now tensor of float32",
        ),
        (
            changed(numbered_batches(2, 4), 1, extra=["x"] * 4),
            r"column \['extra'\] was absent and is now list",
        ),
        (
            changed(numbered_batches(2, 4), 1, number=np.arange(4)),
            r"\['number'\] was tensor .* and is now array of int64",
        ),
    ],
    ids=[
        "empty",
        "too few",
        "no multiple",
        "fits by luck",
        "short in the middle",
        "dtype",
        "column",
        "kind",
    ],
)
def test_sources_that_do_not_fit_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        list(dataset(source))


def test_a_generator_can_be_read_once():
    data = dataset(batch for batch in numbered_batches(2, 4))
    assert len(list(data)) == 1
    with pytest.raises(ValueError, match=r"no batch in epoch 1; a generator can be read only once"):
        list(data)


def test_an_uncollated_batch_is_noticed():
    loader = DataLoader(Rows(16), batch_size=4, collate_fn=lambda rows: rows[0]["number"].repeat(3))
    with pytest.raises(ValueError, match="got 3 where 4 were expected"):
        list(dataset(loader))


def test_what_is_not_scores_or_an_index_is_refused():
    class Bare:
        def score(self, super_batch):
            return torch.zeros(8)

    with pytest.raises(
        ValueError, match=r"must return Scores, got Tensor; ExampleScores\(values\)"
    ):
        list(JestDataset(numbered_batches(2, 4), Bare(), super_batch_size=8, sub_batch_size=4))

    class Picks:
        def select(self, scores, size, *, key):
            return [0, 1, 2, 3]

    with pytest.raises(ValueError, match="must return an int64 tensor, got list"):
        list(dataset(numbered_batches(2, 4), Picks()))


def test_scores_of_another_size_are_refused():
    class Short:
        def score(self, super_batch):
            return ExampleScores(torch.zeros(7))

    with pytest.raises(ValueError, match="one score per candidate, got 7 for 8"):
        list(JestDataset(numbered_batches(2, 4), Short(), super_batch_size=8, sub_batch_size=4))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2], r"must return int64 of shape \(4,\), got torch.int64 of \(3,\)"),
        ([0, 1, 1, 2], "must return distinct rows"),
        ([0, 1, 2, 8], r"distinct rows in \[0, 8\)"),
        ([0.0, 1.0, 2.0, 3.0], "got torch.float32"),
        ([0, 1, 2**62 + 5, 2], r"candidates with finite scores, but 1 had none .*at row 5"),
    ],
    ids=["short", "repeated", "beyond", "float", "marked"],
)
def test_a_selector_that_breaks_its_promise_is_noticed(index, message):
    class Selector:
        def select(self, scores, size, *, key):
            return torch.tensor(index)

    with pytest.raises(ValueError, match=message):
        list(dataset(numbered_batches(2, 4), Selector()))


def test_inside_a_dataloader_worker_it_says_what_to_do():
    loader = DataLoader(dataset(numbered_batches(4, 4)), batch_size=None, num_workers=1)
    with pytest.raises(ValueError, match=r"must run in the training process.*num_workers=0"):
        list(loader)


def test_an_exception_in_the_training_loop_leaves_the_dataset_usable():
    data = dataset(Counting(6, 4), sub_batch_size=1)

    def train():
        for batch in data:
            if batch["number"].item() == 15:
                raise KeyError("the user's own")

    with pytest.raises(KeyError):
        train()
    state = data.state_dict()
    resumed = dataset(Counting(6, 4), sub_batch_size=1)
    resumed.load_state_dict(state)
    assert numbers(resumed) == [[23]]


def test_a_scorers_own_loss_function_is_not_part_of_the_state():
    class WithLoss(ByNumber):
        def __init__(self):
            self.loss = torch.nn.CrossEntropyLoss(reduction="none")

    def make():
        return JestDataset(Counting(4, 4), WithLoss(), super_batch_size=8, sub_batch_size=4)

    state = json.loads(json.dumps(make().state_dict()))
    make().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 3}, "schedule must be a Schedule or None, got 3"),
        ({"overlap": "no"}, "overlap must be True or False, got 'no'"),
        ({"stall_timeout_s": "x"}, "stall_timeout_s must be a positive number .* got 'x'"),
        ({"max_skipped_fraction": "1"}, "max_skipped_fraction must be from 0 to 1, got '1'"),
    ],
)
def test_options_of_the_wrong_type_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(numbered_batches(6, 4), **options)
