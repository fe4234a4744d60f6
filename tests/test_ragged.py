"""A column of byte strings, compared with the list of them."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jest_loader import RaggedBytes

ROWS = st.lists(st.binary(max_size=9), max_size=12)


def lying_in(rows: list[bytes], gap: int = 2) -> RaggedBytes:
    """The rows in a buffer with other bytes between them."""
    buffer = b"".join(b"?" * gap + row for row in rows) + b"?"
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    starts = gap * np.arange(1, len(rows) + 1) + sizes.cumsum() - sizes
    return RaggedBytes.within(buffer, starts, sizes)


def num_buffer_bytes(column: RaggedBytes) -> int:
    return sum(map(len, column._buffers))


@given(ROWS, st.data())
def test_it_reads_like_a_list(rows: list[bytes], data: st.DataObject) -> None:
    for column in (RaggedBytes(rows), lying_in(rows)):
        assert list(column) == rows
        assert column == rows
        assert rows == column
        assert column == RaggedBytes(rows)
        assert len(column) == len(rows)
        assert column.nbytes == sum(map(len, rows))
        assert column.sizes.tolist() == [*map(len, rows)]
        assert [column[row] for row in range(len(rows))] == rows
        assert [bytes(column.view(row)) for row in range(-len(rows), 0)] == rows
        cut = data.draw(st.slices(len(rows)))
        assert list(column[cut]) == rows[cut]
        for same in (column.copy(), copy.deepcopy(column), pickle.loads(pickle.dumps(column))):
            assert same == rows
            assert num_buffer_bytes(same) == column.nbytes


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_rows_of_several_buffers_taken_and_joined(
    parts: list[list[bytes]], data: st.DataObject
) -> None:
    column = RaggedBytes.concat([lying_in(part) for part in parts])
    rows = [row for part in parts for row in part]
    assert list(column) == rows
    places = st.lists(st.integers(0, len(rows) - 1)) if rows else st.just([])
    one, other = (np.array(data.draw(places), dtype=np.int64) for _ in range(2))
    joined = RaggedBytes.concat([column.take(one), column.take(other)])
    expected = [rows[row] for row in [*one, *other]]
    assert list(joined) == expected
    assert list(joined.take(np.arange(len(expected))[::-1])) == expected[::-1]
    assert len(joined._buffers) <= len(parts)  # shared, not repeated


def test_rows_stay_where_they_are_and_hold_no_other_buffer() -> None:
    buffers = [bytearray(b"abc"), bytearray(b"defg")]
    first, second = (
        RaggedBytes.within(buffer, np.array([1, 0]), np.array([2, 1])) for buffer in buffers
    )
    column = RaggedBytes.concat([first, second])
    (taken,) = column.take(np.array([2])).views()
    buffers[1][1] = ord("X")
    assert bytes(taken) == b"Xf"
    assert column[2] == b"Xf"
    assert num_buffer_bytes(column) == 7
    assert num_buffer_bytes(column.take(np.array([3, 2]))) == 4
    assert num_buffer_bytes(column[:2]) == 3
    own = column.take(np.array([2])).copy()
    buffers[1][1] = ord("Y")
    assert list(own) == [b"Xf"]
    assert num_buffer_bytes(own) == 2


def test_rows_cannot_be_written_to() -> None:
    column = RaggedBytes.within(bytearray(b"abc"), np.array([0]), np.array([3]))
    with pytest.raises(TypeError, match="read-only"):
        column.view(0)[0] = 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(column)


@given(st.integers(0, 7), st.integers(0, 3))
def test_rows_of_one_size_as_an_array(num_rows: int, gap: int) -> None:
    expected = np.arange(num_rows * 6, dtype=np.int16).reshape(num_rows, 2, 3)
    rows = [row.tobytes() for row in expected]
    half = num_rows // 2
    for column in (
        lying_in(rows, gap),
        RaggedBytes.concat([lying_in(rows[:half], gap), lying_in(rows[half:], gap)]),
    ):
        found = column.to_array(np.int16, (2, 3))
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, expected)
        found[:] = 0  # its own memory
        assert column == rows


def test_an_array_of_rows_that_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the 4 bytes of int32 \(\), got 3 to 4"):
        RaggedBytes([b"abcd", b"abc"]).to_array(np.int32)
    assert RaggedBytes([b"", b""]).to_array(np.int32, (0, 2)).shape == (2, 0, 2)


@pytest.mark.parametrize(
    ("starts", "sizes"), [([0], [4]), ([3], [1]), ([-1], [1]), ([1], [-1]), ([0, 1], [1])]
)
def test_rows_beyond_their_buffer_are_refused(starts: list[int], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="must lie within their buffer of 3 bytes"):
        RaggedBytes.within(b"abc", np.array(starts), np.array(sizes))


class Elsewhere:
    """Bytes that are not in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def read_into(self, pieces: list[memoryview], starts: list[int]) -> None:
        for piece, start in zip(pieces, starts, strict=True):
            piece[:] = self.content[start : start + len(piece)]


@given(ROWS, ROWS, st.data())
def test_rows_that_are_not_in_memory_read_like_a_list(
    some: list[bytes], others: list[bytes], data: st.DataObject
) -> None:
    sizes = np.array([len(row) for row in some], dtype=np.int64)
    stored = RaggedBytes.within(Elsewhere(b"".join(some)), sizes.cumsum() - sizes, sizes)
    rows = [*some, *others]
    order = np.array(data.draw(st.permutations(range(len(rows)))), dtype=np.int64)
    column = RaggedBytes.concat([stored, lying_in(others)]).take(order)
    expected = [rows[row] for row in order]
    assert list(column) == column.views() == expected
    assert [bytes(column.view(row)) for row in range(len(rows))] == expected
    for same in (column.copy(), pickle.loads(pickle.dumps(column))):
        assert same == expected
    starts = np.array([data.draw(st.integers(0, len(row))) for row in expected], dtype=np.int64)
    ends = [row[start:] for row, start in zip(expected, starts.tolist(), strict=True)]
    assert column.parts(starts, column.sizes - starts) == ends
    with pytest.raises(ValueError, match="must lie within their rows"):
        lying_in([b"abc"]).parts(np.array([2]), np.array([2]))


def test_a_row_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        RaggedBytes([b"a"])[1]


def test_other_things_are_not_equal() -> None:
    column = RaggedBytes([b"a", b"b"])
    for other in ([b"a"], [b"a", b"c"], RaggedBytes([b"a"]), ["a", "b"], "ab", None):
        assert column != other


def test_what_decoders_take() -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    column = lying_in([b"x", file.getvalue()])
    for row in (column[1], column.view(1)):
        assert Image.open(io.BytesIO(row)).size == (3, 2)
        assert bytes(row) == file.getvalue()
        with warnings.catch_warnings():  # that the tensor must not be written to
            warnings.simplefilter("ignore", UserWarning)
            found = torch.frombuffer(row, dtype=torch.uint8)
        assert found.tolist() == list(file.getvalue())
        assert np.frombuffer(row, np.uint8).tolist() == list(file.getvalue())
