"""Sources that are their own iterator: they stay at their end, or where a pass was left."""

import itertools

import pytest
from torchdata import nodes

from tests.helpers import numbered_batches
from tests.loader.builders import dataset, numbers

EPOCH = [[7, 6, 5, 4], [15, 14, 13, 12]]  # The highest of each super-batch of 8, of 20 rows.


class Reader:
    """Stays at its end until it is reset, and ignores that before its end, as DALI's iterators."""

    batch_size = 4

    def __init__(self, length=5, auto_reset=False):
        self.length, self.auto_reset, self.position = length, auto_reset, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        return self

    def __next__(self):
        if self.position == self.length:
            if self.auto_reset:
                self.position = 0
            raise StopIteration
        self.position += 1
        return numbered_batches(5, 4)[self.position - 1]

    def reset(self):
        if self.position == self.length:
            self.position = 0


class Endless(Reader):
    """Says that it has no batches, as DALI's of unknown size, and can be reset anywhere."""

    def __len__(self):
        return 0

    def __next__(self):
        self.position += 1
        return numbered_batches(self.position, 4)[-1]

    def reset(self):
        self.position = 0


SOURCES = {
    "resets itself": lambda: Reader(auto_reset=True),
    "is reset": Reader,
    "node": lambda: nodes.IterableWrapper(numbered_batches(5, 4)),
}


def drawn(data, num_batches):
    return numbers(itertools.islice(data, num_batches))


@pytest.mark.parametrize("prefetch", [0, 1, 9])
@pytest.mark.parametrize("source", SOURCES)
def test_each_pass_is_a_whole_epoch(source, prefetch):
    data = dataset(SOURCES[source](), prefetch=prefetch)
    assert [numbers(data) for _ in range(3)] == [EPOCH] * 3


@pytest.mark.parametrize("prefetch", [0, 1, 9])
@pytest.mark.parametrize("num_batches", [1, 2])
@pytest.mark.parametrize("source", [*SOURCES, "endless"])
def test_a_pass_that_was_left_is_not_gone_on_with(source, num_batches, prefetch):
    make = {**SOURCES, "endless": Endless}[source]
    for tell in (False, True):
        data = dataset(make(), prefetch=prefetch)
        for epoch in range(3):
            if tell:
                data.set_epoch(epoch)
            assert drawn(data, num_batches) == EPOCH[:num_batches]


def test_a_length_of_none_is_not_known():
    data = dataset(Endless())
    assert len(drawn(data, 9)) == 9
    with pytest.raises(TypeError, match="Endless does not have both"):
        len(data)


def test_the_last_batch_of_a_length_in_batches_may_be_short():
    class Short(Reader):
        def __next__(self):
            batch = super().__next__()
            return {name: rows[: 4 if self.position < 5 else 1] for name, rows in batch.items()}

    data = dataset(Short())
    assert [numbers(data) for _ in range(2)] == [EPOCH] * 2
    assert data.counts.dropped == 2
