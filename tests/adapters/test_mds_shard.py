import numpy as np
import pytest

from jest_loader.adapters.mds.shard import decode, head_bytes, spans, stored_rows, table_bytes
from jest_loader.ragged import RaggedBytes


def shard(rows: list[list[bytes]]) -> bytes:
    """Rows of one column of variable size and one of two bytes, as MDS lays them out."""
    bodies = [np.uint32(len(first)).tobytes() + first + second for first, second in rows]
    header = b"{}"
    ends = np.cumsum([4 * (len(rows) + 2) + len(header), *map(len, bodies)])
    return np.uint32([len(rows), *ends]).tobytes() + header + b"".join(bodies)


def cells(data: bytes, num_rows: int, sizes: list[int | None]) -> list[RaggedBytes]:
    """Each column's stored values."""
    rows = stored_rows(data, data[: table_bytes(num_rows)], num_rows, sizes)
    heads = rows.parts(np.zeros_like(rows.sizes), np.full_like(rows.sizes, head_bytes(sizes)))
    return [rows.parts(*span) for span in spans(sizes, heads, rows.sizes)]


ROWS = [[b"abc", b"01"], [b"", b"23"], [b"\0", b"45"]]


def test_columns_of_a_shard() -> None:
    data = shard(ROWS)
    variable, fixed = cells(data, 3, [None, 2])
    assert decode("bytes", variable) == [b"abc", b"", b"\0"]
    assert decode("str", variable) == ["abc", "", "\0"]
    assert decode("int16", fixed).tolist() == np.frombuffer(b"012345", np.int16).tolist()  # type: ignore[union-attr]


def test_more_or_fewer_bytes_or_rows_than_the_table_says() -> None:
    data = shard(ROWS)
    for damaged, rows in [(data + b"x", 3), (data[:-1], 3), (data, 2), (data, 4), (b"", 3)]:
        with pytest.raises(ValueError, match=r"table|buffer"):
            cells(damaged, rows, [None, 2])


def test_rows_that_their_columns_do_not_fill() -> None:
    data = shard([*ROWS, [b"", b"6"]])
    with pytest.raises(ValueError, match="do not fill"):
        cells(data, 4, [None, 2])
    with pytest.raises(ValueError, match="too short"):
        cells(data, 4, [None, None])
