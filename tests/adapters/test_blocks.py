"""What MDS and Zarr sources have in common, on a data set in memory that records what is read."""

import json
from dataclasses import MISSING, fields
from itertools import chain, islice
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jest_loader.adapters.blocks import (
    BlockSource,
    Rows,
    Scratch,
    SourceKeywords,
    SourceOptions,
    Table,
)
from jest_loader.ragged import Int64Array

SIZES = np.array([5, 3, 8, 2, 9, 1, 4])  # 32 rows
STARTS = SIZES.cumsum() - SIZES


class Memory:
    column_names = ("number", "text")

    def __init__(self, fingerprint: str = "abc", sizes: Int64Array = SIZES) -> None:
        self.fingerprint = fingerprint
        self.block_rows = sizes
        self._ends = sizes.cumsum()
        self.blocks_read: list[int] = []

    def first_rows(self, num_rows: int) -> str:
        return f"{self.fingerprint} to {num_rows}"

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        self.blocks_read += blocks.tolist()
        sizes = self.block_rows
        spans = [np.arange(self._ends[block] - sizes[block], self._ends[block]) for block in blocks]
        numbers = scratch.array("number", (int(sizes[blocks].sum()),), np.dtype(np.int64))
        numbers[:] = np.concatenate(spans)
        return Table({"number": numbers, "text": [str(number) for number in numbers]})


def source(**options: Any) -> BlockSource:
    reader = options.pop("reader", None) or Memory()
    defaults: dict[str, Any] = {
        "batch_size": 6,
        "shuffle": True,
        "window_rows": 10,
        "seed": 3,
        "id_column": "sample_id",
        "drop_last": False,
    }
    return BlockSource(reader, **(defaults | options))


def ids(batches: Any) -> list[list[int]]:
    return [batch["sample_id"].tolist() for batch in batches]


def test_batches_hold_every_row_once_an_epoch() -> None:
    whole = source()
    for _ in range(2):
        batches = list(whole)
        assert [len(batch["text"]) for batch in batches] == [6, 6, 6, 6, 6, 2]
        assert len(whole) == 6
        for batch in batches:
            assert batch["number"].tolist() == batch["sample_id"].tolist()
            assert batch["text"] == [str(number) for number in batch["number"]]
        assert sorted(chain(*ids(batches))) == list(range(32))
    assert whole.num_examples == 32


def test_drop_last_drops_the_rest_and_reads_no_block_for_it() -> None:
    reader = Memory()
    dropping = source(reader=reader, drop_last=True, shuffle=False, batch_size=14)
    assert len(dropping) == 2
    assert ids(dropping) == [list(range(14)), list(range(14, 28))]
    assert reader.blocks_read == [0, 1, 2, 3, 4, 5]


def test_each_pass_has_an_order_of_its_own_and_reads_each_block_once() -> None:
    reader = Memory()
    shuffled = source(reader=reader)
    first, second = ids(shuffled), ids(shuffled)
    assert first != second
    assert sorted(reader.blocks_read) == sorted([*range(7), *range(7)])
    shuffled.set_epoch(0)
    assert ids(shuffled) == first
    shuffled.set_epoch(1)
    assert ids(shuffled) == second
    assert ids(source(seed=4)) != first


def test_without_shuffle_rows_come_as_stored() -> None:
    assert list(chain(*ids(source(shuffle=False)))) == list(range(32))


def test_nothing_is_read_before_the_first_batch() -> None:
    reader = Memory()
    iterator = iter(source(reader=reader))
    assert reader.blocks_read == []
    next(iterator)
    assert 0 < len(reader.blocks_read) < 7


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 6, 32])
def test_resume_is_exact_from_every_position(
    shuffle: bool, drop_last: bool, batch_size: int
) -> None:
    options = {"shuffle": shuffle, "drop_last": drop_last, "batch_size": batch_size}
    whole = source(**options)
    expected = [ids(whole), ids(whole), ids(whole)]
    for epoch in range(2):
        for position in range(len(whole) + 1):
            stopped = source(**options)
            stopped.set_epoch(epoch)
            assert ids(islice(stopped, position)) == expected[epoch][:position]
            state = json.loads(json.dumps(stopped.state_dict()))
            resumed = source(**options)
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            assert ids(resumed) == expected[epoch][position:]
            assert ids(resumed) == expected[epoch + 1]  # a loaded position is used once


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    batch_size=st.integers(1, 20),
    window_rows=st.integers(1, 50),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_epoch_delivers_every_row_once_and_resumes_anywhere(
    sizes: list[int],
    batch_size: int,
    window_rows: int,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    epoch: int,
    data: st.DataObject,
) -> None:
    assume(not drop_last or sum(sizes) >= batch_size)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "window_rows": window_rows,
        "shuffle": shuffle,
        "drop_last": drop_last,
        "seed": seed,
    }

    def make() -> BlockSource:
        return source(reader=Memory(sizes=np.array(sizes)), **options)

    visited = make()
    for earlier in range(epoch):  # what was read before must not matter
        visited.set_epoch(earlier)
        list(islice(visited, data.draw(st.integers(0, 3))))
    visited.set_epoch(epoch)
    batches = list(visited)
    for batch in batches:
        assert batch["number"].tolist() == batch["sample_id"].tolist()
        assert batch["text"] == [str(number) for number in batch["number"]]
    expected = ids(batches)
    assert len(expected) == len(visited)
    rows = list(chain(*expected))
    assert len(set(rows)) == len(rows)
    left_out = sum(sizes) % batch_size if drop_last else 0
    assert len(rows) == sum(sizes) - left_out
    assert set(rows) <= set(range(sum(sizes)))
    assert {len(batch) for batch in expected[:-1]} <= {batch_size}

    position = data.draw(st.integers(0, len(expected)))
    stopped, resumed = make(), make()
    stopped.set_epoch(epoch)
    list(islice(stopped, position))
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert ids(resumed) == expected[position:]


@pytest.mark.parametrize("window_rows", [1, 10, 100])
def test_resume_reads_only_what_is_left(window_rows: int) -> None:
    stopped = source(window_rows=window_rows, batch_size=4)
    list(islice(stopped, 7))
    reader = Memory()
    resumed = source(reader=reader, window_rows=window_rows, batch_size=4)
    resumed.load_state_dict(stopped.state_dict())
    (last,) = resumed
    needed = {int(np.searchsorted(STARTS, row, side="right")) - 1 for row in last["number"]}
    assert sorted(reader.blocks_read) == sorted(needed)


def test_the_state_is_of_the_last_batch_drawn() -> None:
    drawn = source()
    iterator = iter(drawn)
    for count in range(7):
        assert drawn.state_dict()["batches"] == count
        if count < 6:
            next(iterator)
    assert list(iterator) == []
    assert (drawn.state_dict()["epoch"], drawn.state_dict()["batches"]) == (1, 0)
    assert list(iterator) == []
    assert drawn.state_dict()["epoch"] == 1


def test_breaking_off_and_starting_again_repeats_the_epoch() -> None:
    broken = source()
    first = ids(islice(broken, 3))
    assert ids(islice(broken, 3)) == first


def state_at(*, epoch: int, batch: int) -> dict[str, Any]:
    there = source()
    there.set_epoch(epoch)
    there.seek(batch)
    return there.state_dict()


def test_a_loaded_position_is_used_once_even_if_broken_off() -> None:
    expected = ids(source())
    resumed = source()
    resumed.load_state_dict(state_at(epoch=0, batch=3))
    assert ids(islice(resumed, 1)) == expected[3:4]
    assert ids(resumed) == expected


def test_set_epoch_keeps_a_loaded_position_in_that_epoch_only() -> None:
    whole = source()
    expected = [ids(whole), ids(whole)]
    state = state_at(epoch=1, batch=2)
    same = source()
    same.load_state_dict(state)
    same.set_epoch(1)
    assert ids(same) == expected[1][2:]
    other = source()
    other.load_state_dict(state)
    other.set_epoch(0)
    assert other.state_dict()["batches"] == 0
    assert ids(other) == expected[0]


def test_rolling_back_in_the_same_process() -> None:
    rolling = source()
    iterator = iter(rolling)
    next(iterator)
    state = rolling.state_dict()
    rest = ids(iterator)
    list(islice(rolling, 2))
    rolling.load_state_dict(state)
    assert ids(rolling) == rest


def test_two_iterators_do_not_disturb_each_other() -> None:
    expected = ids(source())
    both = source()
    first = iter(both)
    start = ids(islice(first, 2))
    second = iter(both)
    rest: list[list[int]] = []
    again: list[list[int]] = []
    for _ in range(4):
        again += ids(islice(second, 1))
        rest += ids(islice(first, 1))
    assert start + rest == expected
    assert again == expected[:4]
    assert both.state_dict()["batches"] == 4  # the second is the newest
    assert list(first) == []
    assert both.state_dict()["batches"] == 4
    assert again + ids(second) == expected


def test_an_iterator_used_after_its_end_does_not_share_its_memory() -> None:
    both = source()
    ended = iter(both)
    list(ended)
    second = iter(both)
    next(second)
    assert list(ended) == []
    ids(islice(both, 4))  # reads other windows than the second has
    for batch in second:
        assert batch["number"].tolist() == batch["sample_id"].tolist()


def test_batches_do_not_share_memory() -> None:
    drawn = source(shuffle=False)
    for batch in drawn:
        batch["number"][:] = -1
        batch["text"].clear()
    assert list(chain(*ids(drawn))) == list(range(32))


@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_failed_read_can_be_tried_again(window: int) -> None:
    class Flaky(Memory):
        windows_read = 0

        def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
            rows = super().read(blocks, scratch)
            self.windows_read += 1
            if self.windows_read == window + 1:
                raise OSError("stale file handle")
            return rows

    options = {"window_rows": 8, "batch_size": 5}  # a batch has rows of two windows
    expected = ids(source(**options))
    iterator = iter(source(reader=Flaky(), **options))
    found: list[list[int]] = []
    with pytest.raises(OSError, match="stale"):
        found.extend(batch["sample_id"].tolist() for batch in iterator)
    assert found + ids(iterator) == expected


@pytest.mark.parametrize(
    ("change", "both"),
    [
        ({"seed": 4}, "same seed, got 3 in the state and 4 here"),
        ({"batch_size": 5}, "same batch size over all ranks, got 6 in the state and 5 here"),
        ({"shuffle": False}, "same shuffle, got True in the state and False here"),
        ({"window_rows": 11}, "same window_rows, got 10 in the state and 11 here"),
        ({"drop_last": True}, "same drop_last, got False in the state and True here"),
        ({"reader": Memory("xyz")}, "same dataset, got 'abc' in the state and 'xyz' here"),
    ],
)
def test_a_state_of_another_source_is_refused(change: dict[str, Any], both: str) -> None:
    with pytest.raises(ValueError, match=both):
        source(**change).load_state_dict(source().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "version must be 2, got 9"),
        ({"batches": 7}, "batches must be a whole number from 0 to 6, got 7"),
        ({"epoch": -1}, "epoch must be a whole number from 0 to .*, got -1"),
    ],
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    loaded = source()
    with pytest.raises(ValueError, match=message):
        loaded.load_state_dict(loaded.state_dict() | change)
    assert loaded.state_dict() == source().state_dict()


def test_the_state_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have .*fingerprint"):
        source().load_state_dict({"version": 2, "epoch": 0, "source": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"batch_size": 33, "drop_last": True}, "32 rows and a batch_size of 33"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**64}, "seed must be a whole number from 0"),
        ({"window_rows": 0}, "window_rows must be a whole number of at least 1"),
        ({"id_column": "number"}, "id_column must not be a column .* or None"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**options)


def test_options_that_need_no_value() -> None:
    plain = source(id_column=None, window_rows=None, batch_size=np.int64(5))
    assert list(next(iter(plain))) == ["number", "text"]
    assert json.loads(json.dumps(plain.state_dict()))["fingerprint"]["window_rows"] == 20


def test_type_checkers_know_the_options_as_they_are() -> None:
    assert get_type_hints(SourceKeywords) == get_type_hints(SourceOptions)
    required = {field.name for field in fields(SourceOptions) if field.default is MISSING}
    assert required == SourceKeywords.__required_keys__ == {"batch_size"}


def test_a_source_starts_at_any_batch() -> None:
    for shuffle in (False, True):
        expected = list(source(shuffle=shuffle))
        for batch in (0, 3, len(expected)):
            again = source(shuffle=shuffle)
            next(iter(again))
            again.seek(batch)
            found = [columns["number"].tolist() for columns in again]
            assert found == [columns["number"].tolist() for columns in expected[batch:]]
    with pytest.raises(ValueError, match="batch must be a whole number from 0 to"):
        source().seek(len(source()) + 1)


def sharded(num_ranks: int, **options: Any) -> list[BlockSource]:
    """The same source on each rank."""
    sources = [source(**options) for _ in range(num_ranks)]
    for rank, one in enumerate(sources):
        one.shard(rank, num_ranks)
    return sources


@settings(max_examples=60, deadline=None)
@given(
    num_ranks=st.integers(2, 7),
    batch_size=st.integers(1, 9),
    window_rows=st.integers(1, 40),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
)
def test_ranks_are_dealt_the_rows_that_one_would_read(
    num_ranks: int, batch_size: int, window_rows: int, drop_last: bool, shuffle: bool
) -> None:
    assume(num_ranks * batch_size <= 32)
    options = {"window_rows": window_rows, "drop_last": drop_last, "shuffle": shuffle}
    whole = source(batch_size=num_ranks * batch_size, **options)
    ranks = sharded(num_ranks, batch_size=batch_size, **options)
    for _ in range(2):
        expected = ids(whole)
        for rank, one in enumerate(ranks):
            share = [batch[rank::num_ranks] for batch in expected]
            assert ids(one) == [batch for batch in share if batch]
    assert {len(one) for one in ranks} == {len(whole)}
    assert len({one.num_examples for one in ranks}) == 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
def test_a_position_of_two_ranks_is_one_of_any_number(num_ranks: int) -> None:
    two = sharded(2, batch_size=3)
    for one in two:
        list(islice(one, 2))
    states = [json.loads(json.dumps(one.state_dict())) for one in two]
    assert states[0] == states[1]
    whole = source(batch_size=6)
    rest = ids(whole)[2:]
    for rank, one in enumerate(sharded(num_ranks, batch_size=6 // num_ranks)):
        one.load_state_dict(states[0])
        assert ids(one) == [found for batch in rest if (found := batch[rank::num_ranks])]


def test_a_position_with_other_batches_is_refused() -> None:
    state = sharded(2, batch_size=3)[0].state_dict()
    with pytest.raises(ValueError, match=r"same batch size over all ranks, got 6 .* and 12 here"):
        sharded(4, batch_size=3)[0].load_state_dict(state)


def test_a_shard_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be a whole number from 0 to 1, got 2"):
        source().shard(2, 2)
    with pytest.raises(ValueError, match="batch_size of 6 on each of 8 ranks"):
        source(drop_last=True).shard(0, 8)
