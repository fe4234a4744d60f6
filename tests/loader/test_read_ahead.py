"""Reading ahead: bounded, exact in its state, and never a hang."""

import gc
import math
import threading
import time
import tracemalloc

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader.loader.read_ahead import ReadAhead
from jest_loader.testing import assert_resumes_exactly
from tests.helpers import Counting, numbered_batches
from tests.loader.builders import dataset as make

EARLIER: set[threading.Thread] = set()


def readers() -> set[threading.Thread]:
    """The threads that read ahead, other tests' left out."""
    found = {thread for thread in threading.enumerate() if thread.name == "jest-loader reader"}
    return found - EARLIER


@pytest.fixture(autouse=True)
def _forget_earlier_readers():
    EARLIER.clear()
    EARLIER.update(readers())


def read_ahead(inputs, depth=2, make=iter, stall_timeout_s=10.0):
    return ReadAhead(iter(inputs), make, depth=depth, stall_timeout_s=stall_timeout_s)


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class Slow:
    """A source that takes its time for each batch, and counts them."""

    batch_size = 4

    def __init__(self, num_batches, seconds=0.0):
        self.num_batches, self.seconds, self.num_read = num_batches, seconds, 0

    def __len__(self):
        return self.num_batches

    def __iter__(self):
        for batch in numbered_batches(self.num_batches, 4):
            time.sleep(self.seconds)
            self.num_read += 1
            yield batch


def test_items_come_in_order_and_end():
    reading = read_ahead(range(100), depth=3)
    assert list(reading) == list(range(100))
    assert list(reading) == []
    assert wait_until(lambda: not readers())


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_the_depth_is_made_ahead(depth):
    made = []

    def items(inputs):
        for value in inputs:
            made.append(value)
            yield value

    reading = read_ahead(range(100), depth, items)
    assert wait_until(lambda: len(made) == depth)
    next(reading)
    assert wait_until(lambda: len(made) == depth + 1)
    time.sleep(0.1)
    assert len(made) == depth + 1, "one with the consumer, depth of them waiting"
    reading.close()


def test_an_error_comes_in_its_place_and_ends_the_pass():
    def items(inputs):
        yield from [1, 2]
        raise OSError("the disk is gone")

    reading = read_ahead([], 5, items)
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(reading)
    with pytest.raises(StopIteration):
        next(reading)


def test_a_stall_is_an_error_with_the_stacks_of_all_threads(caplog):
    release = threading.Event()

    def items(inputs):
        release.wait()
        yield 1

    reading = read_ahead([], 1, items, stall_timeout_s=0.2)
    with pytest.raises(TimeoutError, match=r"within 0.2 s, but did not; the log has the stacks"):
        next(reading)
    assert "release.wait()" in caplog.text
    assert "thread jest-loader reader" in caplog.text
    release.set()


def test_closing_stops_the_thread_between_inputs():
    drawn = []

    def inputs():
        for value in range(1000):
            drawn.append(value)
            time.sleep(0.01)
            yield value

    def all_at_once(values):
        yield list(values)

    reading = read_ahead(inputs(), 1, all_at_once)
    assert wait_until(lambda: len(drawn) > 2)
    reading.close()
    assert wait_until(lambda: not readers())
    assert len(drawn) < 100


def test_what_was_read_from_is_closed_with_the_pass():
    closed = threading.Event()

    class Opens:
        def __iter__(self):
            try:
                yield from numbered_batches(100, 4)
            finally:
                closed.set()

    dataset = make(Opens())
    for _ in dataset:
        break
    assert closed.wait(10)
    assert dataset.counts.trained == 4


def test_what_is_dropped_is_closed():
    reading = read_ahead(range(100))
    next(reading)
    del reading
    gc.collect()
    assert wait_until(lambda: not readers())


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
def test_depth_changes_neither_what_is_delivered_nor_the_state(prefetch):
    def run(prefetch):
        dataset = make(Counting(11, 4), prefetch=prefetch)
        return [(b["number"].tolist(), dataset.state_dict()) for _ in range(2) for b in dataset]

    assert run(prefetch) == run(0)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_resume_is_exact_while_reading_ahead(prefetch):
    assert_resumes_exactly(lambda: make(Counting(11, 4), prefetch=prefetch))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact_while_reading_ahead_of_a_stateful_dataloader(num_workers):
    rows = [{"number": torch.tensor(row)} for row in range(44)]
    assert_resumes_exactly(
        lambda: make(StatefulDataLoader(rows, batch_size=4, num_workers=num_workers), prefetch=2),
        num_epochs=1,
    )


def test_a_state_may_move_to_another_depth():
    before = make(Counting(11, 4), prefetch=3)
    batches = iter(before)
    next(batches)
    state = before.state_dict()
    after = make(Counting(11, 4), prefetch=0)
    after.load_state_dict(state)
    assert next(iter(after))["number"].tolist() == next(batches)["number"].tolist()


def test_nothing_starts_before_the_first_next():
    source = Slow(8)
    batches = iter(make(source))
    time.sleep(0.05)
    assert source.num_read == 0
    assert not readers()
    next(batches)
    batches.close()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_memory_is_bounded_by_the_super_batches_read_ahead(prefetch):
    """And by the sub-batch that was decoded: here as large as a super-batch is encoded."""
    row_bytes, super_batch_bytes = 25_000, 40 * 25_000

    class Encoded:
        def __iter__(self):
            for batch in numbered_batches(60, 20):
                yield {**batch, "jpg": [bytes(row_bytes) for _ in range(20)]}

    def decode(batch):
        return batch["number"], torch.zeros(len(batch["jpg"]), 5 * row_bytes, dtype=torch.uint8)

    dataset = make(
        Encoded(), super_batch_size=40, sub_batch_size=8, materialize=decode, prefetch=prefetch
    )
    peak = 0
    tracemalloc.start()
    try:
        for number, decoded in dataset:
            decoded.add_(1)
            time.sleep(0.005)  # The reader gets as far ahead as it may.
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            del number, decoded
    finally:
        tracemalloc.stop()
    # A source's next batch, half a super-batch here, is made before the last one is let go.
    assert peak < (prefetch + 1 + 0.6) * super_batch_bytes


def test_a_consumer_that_is_slower_than_the_reader_does_not_wait():
    dataset = make(Slow(40, seconds=0.03))  # 60 ms for a super-batch of two batches.
    batches, waited = iter(dataset), 0.0
    next(batches)
    for _ in range(15):
        time.sleep(0.1)
        started = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - started
    batches.close()
    assert waited / (15 * 0.1) < 0.2, "bench.emitting measures it; without reading ahead: 0.6"


def test_leaving_a_pass_early_leaves_no_thread_and_the_next_pass_is_whole():
    source = Counting(10, 4)
    dataset = make(source, prefetch=2)
    for _ in dataset:
        break
    assert wait_until(lambda: not readers())
    assert [b["number"].tolist() for b in dataset] == [
        list(range(first + 7, first + 3, -1)) for first in range(40, 80, 8)
    ]


def test_a_new_pass_waits_for_the_old_reader():
    """Two passes at once would each get part of the data."""
    active, most = 0, 0

    class Source:
        def __iter__(self):
            nonlocal active, most
            active += 1
            most = max(most, active)
            try:
                for batch in numbered_batches(6, 4):
                    time.sleep(0.05)
                    yield batch
            finally:
                active -= 1

    dataset = make(Source())
    for _ in range(3):
        next(iter(dataset))
    dataset.close()
    assert most == 1


def test_a_source_that_hangs_stops_neither_close_nor_the_watchdog():
    release = threading.Event()

    class Hangs:
        def __iter__(self):
            yield from numbered_batches(2, 4)
            release.wait()

    started = time.monotonic()
    with make(Hangs(), stall_timeout_s=0.3) as dataset:
        batches = iter(dataset)
        next(batches)
        with pytest.raises(TimeoutError, match=r"must yield a super-batch within 0\.3 s"):
            next(batches)
        with pytest.raises(TimeoutError):
            next(iter(dataset))  # The old reader still waits: not another beside it.
    assert time.monotonic() - started < 10
    release.set()


def test_close_ends_the_pass():
    dataset = make(Counting(10, 4))
    batches = iter(dataset)
    next(batches)
    dataset.close()
    assert wait_until(lambda: not readers())
    with pytest.raises(RuntimeError, match="this iterator cannot go on"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefetch": -1}, "prefetch must be a whole number of at least 0, got -1"),
        ({"stall_timeout_s": 0}, "stall_timeout_s must be a positive number of seconds, got 0"),
        ({"stall_timeout_s": math.inf}, "number of seconds, got inf; use None to wait for ever"),
        ({"max_skipped_fraction": 2}, "max_skipped_fraction must be from 0 to 1, got 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(Slow(4), **options)
