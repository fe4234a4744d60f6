import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jest_loader.adapters.blocks.order import BlockOrder, Part, Window

SIZES = np.array([5, 3, 8, 2, 9, 1, 4])


def delivered(order: BlockOrder, epoch: int) -> list[int]:
    """The rows of an epoch, in delivery order, as places in the data set."""
    first = order.block_rows.cumsum() - order.block_rows
    places: list[int] = []
    for window in order.windows(epoch):
        pieces = zip(window.blocks, window.rows, window.firsts, strict=True)
        stored = np.concatenate(
            [
                first[block] + (start + np.arange(rows)) % order.block_rows[block]
                for block, rows, start in pieces
            ]
        )
        assert window.start == len(places)
        places += stored[order.rows(epoch, window)].tolist()
        assert window.stop == len(places)
    return places


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    shuffle=st.booleans(),
    window_rows=st.integers(1, 60),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_row_once_and_windows_of_the_size_asked_for(
    sizes: list[int], shuffle: bool, window_rows: int, seed: int, epoch: int
) -> None:
    order = BlockOrder(np.array(sizes), shuffle, window_rows, seed)
    places = delivered(order, epoch)
    assert sorted(places) == list(range(sum(sizes)))
    assert places == delivered(BlockOrder(np.array(sizes), shuffle, window_rows, seed), epoch)
    if not shuffle:
        assert places == sorted(places)
        return
    for window in order.windows(epoch):
        rows = window.stop - window.start
        assert rows >= min(window_rows, sum(sizes))
        assert rows < 2 * window_rows + 2 * max(sizes)


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4),
    shares=st.lists(st.floats(0, 3.5), min_size=4, max_size=4),
    shuffle=st.booleans(),
    window_rows=st.integers(1, 60),
    epoch=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_parts_are_repeated_as_often_as_asked_for(
    sizes: list[list[int]], shares: list[float], shuffle: bool, window_rows: int, epoch: int
) -> None:
    parts = tuple(
        Part(len(part), round(share * sum(part)))
        for part, share in zip(sizes, shares, strict=False)
    )
    order = BlockOrder(np.concatenate(sizes), shuffle, window_rows, 7, parts)
    places = delivered(order, epoch) if order.num_rows else []
    assert len(places) == order.num_rows
    first = 0
    for part, rows in zip(parts, map(sum, sizes), strict=True):
        times = np.bincount([p - first for p in places if first <= p < first + rows], None, rows)
        assert times.sum() == part.epoch_rows
        assert set(times.tolist()) <= {part.epoch_rows // rows, -(-part.epoch_rows // rows)}
        first += rows


def test_what_is_repeated_changes_and_leaves_nothing_out_over_epochs() -> None:
    order = BlockOrder(SIZES, True, 8, 3, (Part(7, 10),))
    epochs = [delivered(order, epoch) for epoch in range(60)]
    assert len({tuple(sorted(places)) for places in epochs}) > 20
    times = np.bincount(np.concatenate(epochs), None, SIZES.sum())
    assert times.min() > 0.3 * times.mean()


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [
        delivered(BlockOrder(SIZES, True, 8, seed), epoch)
        for seed in (0, 1, 2**63, 2**63 + 1, 2**64 - 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_order_stays_what_it_was() -> None:
    """A saved position means nothing if a later release orders rows in another way."""
    order = BlockOrder(np.array([3, 2, 4]), True, 5, 7)
    assert delivered(order, 0) == [5, 1, 0, 7, 8, 6, 2, 4, 3]
    assert delivered(order, 3) == [7, 2, 5, 3, 8, 6, 4, 1, 0]


def test_all_arrangements_are_equally_likely() -> None:
    counts = np.zeros((4, 4))
    order = BlockOrder(np.array([2, 2]), True, 4, 0)
    for epoch in range(2000):
        counts[np.arange(4), delivered(order, epoch)] += 1
    expected = 2000 / 4
    # 9 degrees of freedom: above 27.9 in one of a thousand seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_a_window_mixes_its_blocks() -> None:
    order = BlockOrder(np.full(10, 100), True, 500, 0)
    window = order.windows(0)[0]
    blocks = order.rows(0, window) // 100
    assert set(blocks[:50].tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("num_blocks", "block_rows"), [(100_000, 1_000), (10_000, 10_000)])
@pytest.mark.parametrize(("shuffle", "window_rows"), [(True, 10_240), (True, 1), (False, 10_240)])
def test_an_epoch_of_100_million_rows_is_cheap(
    num_blocks: int, block_rows: int, shuffle: bool, window_rows: int
) -> None:
    """It takes a tenth of either bound; a list of all rows would take hundreds of times that."""
    order = BlockOrder(np.full(num_blocks, block_rows), shuffle, window_rows, 0)
    started = time.process_time()
    tracemalloc.start()
    try:
        windows = order.windows(3)
        for window in windows[:: len(windows) // 5]:
            assert len(order.rows(3, window)) == window.stop - window.start
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert windows[-1].stop == 100_000_000
    assert peak_bytes < 100e6
    assert time.process_time() - started < 10  # tracing makes it several times slower


@pytest.mark.parametrize("window_rows", [1, 1000])
def test_no_window_is_left_a_remainder(window_rows: int) -> None:
    windows: list[Window] = BlockOrder(SIZES, True, window_rows, 0).windows(0)
    assert len(windows) == (7 if window_rows == 1 else 1)
