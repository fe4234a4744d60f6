"""Ids are joined as a dictionary would, and a million of them in seconds."""

import time

import numpy as np
import pytest

from jest_loader.ragged import RaggedBytes
from jest_loader.reference_cache.published.keys import Keys


def rows_by_dictionary(held, wanted):
    first = {}
    for row, one in enumerate(held):
        first.setdefault(one, row)
    return [first.get(one, -1) for one in wanted]


@pytest.mark.parametrize(
    "values",
    [
        [f"id {k * 37 % 50}" for k in range(80)],
        [bytes([k % 7 + 1, 0]) for k in range(80)],
        [(k * 37 % 50) - 20 for k in range(80)],
    ],
    ids=["text", "bytes", "numbers"],
)
def test_rows_are_those_of_a_dictionary(values):
    held, wanted = values[:60], values[30:] + values[:3]
    as_column = np.array if isinstance(values[0], int) else list
    found = Keys.of([as_column(held[:7]), as_column(held[7:])], "a").rows_of(
        Keys.of([as_column(wanted)], "b")
    )
    assert found.tolist() == rows_by_dictionary(held, wanted)


def test_digests_whose_halves_are_equal_are_told_apart():
    high = np.array([5, 5, 5, 9], dtype=np.uint64)
    held = Keys("text", high, np.array([3, 1, 2, 1], dtype=np.uint64), "")
    wanted = Keys("text", high, np.array([1, 2, 7, 1], dtype=np.uint64), "")
    assert held.rows_of(wanted).tolist() == [1, 2, -1, 3]


def test_text_and_the_same_bytes_are_one_id():
    text = Keys.of([["æ", "b"]], "a")
    assert text.rows_of(Keys.of([RaggedBytes([b"b", "æ".encode()])], "b")).tolist() == [1, 0]


def test_a_million_ids_are_joined_in_seconds():
    numbers = np.random.default_rng(0).permutation(1_000_000)
    batches = [[f"{k:032x}" for k in part] for part in np.split(numbers, 1000)]
    start = time.process_time()
    held = Keys.of(batches, "a")
    found = held.rows_of(Keys.of(reversed(batches), "b"))
    assert time.process_time() - start < 30
    assert (found[:1000] == np.arange(999_000, 1_000_000)).all()
    assert (found >= 0).all()
