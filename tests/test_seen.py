"""Which examples a model was trained on: a bounded record, and what it says of a batch."""

import numpy as np
import pytest
import torch

from jest_loader.ragged import RaggedBytes
from jest_loader.seen import SEEN, UNKNOWN, UNSEEN, SeenRows, content_keys, marks_of


def test_rows_are_found_by_their_ids():
    seen = SeenRows([7, 3, 3, 5])
    assert seen({"sample_id": np.array([3, 4, 5, 9, -1])}).tolist() == [1, 0, 1, 0, 0]
    other = SeenRows(torch.tensor([3]), column="number")
    assert other({"number": torch.tensor([2, 3])}).tolist() == [UNSEEN, SEEN]
    assert SeenRows([])({"sample_id": np.array([3])}).tolist() == [UNSEEN]


@pytest.mark.parametrize(
    ("keys", "batch", "message"),
    [
        ([0.5], {}, r"whole numbers of shape \[n\], such as sample ids, got float64"),
        ([[1]], {}, r"whole numbers of shape \[n\], such as sample ids, got int64 of \(1, 1\)"),
        ([1], {"number": [1]}, r"no column 'sample_id'; add it, or name another as column"),
        ([1], {"sample_id": ["a"]}, r"one whole number per example, but column 'sample_id' is <U1"),
    ],
)
def test_keys_must_be_whole_numbers(keys, batch, message):
    with pytest.raises(ValueError, match=message):
        SeenRows(keys)(batch)


def test_equal_contents_have_one_key_however_they_are_held():
    texts = ["a", "bcd", ""]
    encoded = [text.encode() for text in texts]
    keys = content_keys(encoded)
    assert len(set(keys.tolist())) == 3
    assert content_keys(RaggedBytes(encoded)).tolist() == keys.tolist()
    assert content_keys(texts).tolist() == keys.tolist()
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    of_bytes = content_keys([row.tobytes() for row in pixels]).tolist()
    assert content_keys(pixels).tolist() == of_bytes
    channels_last = torch.from_numpy(pixels).permute(0, 2, 1)
    assert content_keys(channels_last.permute(0, 2, 1)).tolist() == of_bytes
    assert content_keys(channels_last).tolist() != of_bytes


def test_too_many_keys_leave_a_share_that_is_known_exactly():
    random = np.random.default_rng(0)
    keys = random.integers(-(2**63), 2**63 - 1, 1000)
    found = SeenRows(keys[:0])
    for start in range(0, 1000, 70):  # Each key twice, in two orders.
        found = found.joined(SeenRows(keys[start : start + 100]), most=200)
    found = found.joined(SeenRows(keys[::-1]), most=200)
    assert found.keys.tolist() == sorted(keys.tolist())[:200]
    marks = found.marks(keys)
    assert (marks == SEEN).sum() == 200
    assert (marks == UNKNOWN).sum() == 800
    others = found.marks(random.integers(-(2**63), 2**63 - 1, 10_000))
    assert set(others.tolist()) == {UNSEEN, UNKNOWN}
    assert (others == UNSEEN).mean() == pytest.approx(0.2, abs=0.04)


def test_few_keys_are_all_known():
    found = SeenRows([5]).joined(SeenRows([9, 5, 7]), most=3)
    assert found.keys.tolist() == [5, 7, 9]
    assert found.most_known is None
    assert found.marks(np.array([9, 2**62])).tolist() == [SEEN, UNSEEN]


def test_joined_records_know_what_both_know():
    found = SeenRows([1, 5], most_known=5).joined(SeenRows([2, 3, 8]))
    assert (found.keys.tolist(), found.most_known) == ([1, 2, 3, 5], 5)
    assert SeenRows([2, 8]).joined(SeenRows([1], most_known=1)).keys.tolist() == [1]


def test_a_record_is_read_as_it_was_saved():
    state = SeenRows([4, 2], most_known=8).to_state()
    assert state["keys"].dtype == torch.int64
    found = SeenRows.from_state(state, "content")
    assert (found.keys.tolist(), found.column, found.most_known) == ([2, 4], "content", 8)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"keys": torch.zeros(2, 2, dtype=torch.int64), "most_known": None},
        {"keys": torch.zeros(2), "most_known": None},
        {"keys": torch.zeros(2, dtype=torch.int64), "most_known": "1"},
        {"keys": torch.zeros(1, dtype=torch.int64).expand((1 << 24) + 1), "most_known": None},
    ],
)
def test_a_record_that_cannot_be_is_refused(state):
    with pytest.raises(ValueError, match="seen rows must"):
        SeenRows.from_state(state, "content")


@pytest.mark.parametrize("given", [[1, 0], [0.5, 1, 0], [[True] * 3], [2, 0, 0], None])
def test_a_function_must_say_one_thing_of_each_example(given):
    with pytest.raises(ValueError, match=r"must return bool of shape \(3,\), one for each example"):
        marks_of(lambda batch: given, {"x": torch.zeros(3)})
    assert marks_of(
        lambda batch: torch.tensor([True, False, True]), {"x": torch.zeros(3)}
    ).tolist() == [1, 0, 1]
