import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_mds, write_zarr

COLUMNS = {
    "image": "bytes",
    "caption": "str",
    "icon": "ndarray:uint8:4,3",
    "group": "int",
    "weight": "float32",
    "small": "uint8",
}
Write = Callable[..., int]


def rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "image": bytes([number % 256]) * (number % 5) + b"\0",
            "caption": "ä\0" * (number % 3),
            "icon": np.full((4, 3), number % 256, np.uint8),
            "group": np.int64(number - 5),
            "weight": number / 4,
            "small": number % 256,
        }


def read_all(path: Path, write: Write) -> dict[str, Any]:
    source = MdsSource if write is write_mds else ZarrSource
    (batch,) = source(path, batch_size=10_000, shuffle=False, drop_last=False)
    return batch


both = pytest.mark.parametrize("write", [write_mds, write_zarr])


@both
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("count", [1, 8, 19])
def test_round_trip(tmp_path: Path, write: Write, compression: str | None, count: int) -> None:
    size = {"shard_bytes": 600} if write is write_mds else {"chunk_rows": 8}
    written = write(tmp_path / "a/b", COLUMNS, rows(count), compression=compression, **size)
    batch = read_all(tmp_path / "a/b", write)
    assert written == count
    assert batch["sample_id"].tolist() == list(range(count))
    for name, encoding in COLUMNS.items():
        expected = [row[name] for row in rows(count)]
        if encoding in ("bytes", "str"):
            assert batch[name] == expected
        else:
            np.testing.assert_array_equal(batch[name], np.stack(expected))
    assert {name: str(batch[name].dtype) for name in ("icon", "group", "weight", "small")} == {
        "icon": "uint8",
        "group": "int64",
        "weight": "float32",
        "small": "uint8",
    }


def test_mds_shards_have_a_limit_and_hashes(tmp_path: Path) -> None:
    write_mds(tmp_path / "a", COLUMNS, rows(50), shard_bytes=1000)
    index = json.loads((tmp_path / "a/index.json").read_text())
    assert len(index["shards"]) > 3
    for shard in index["shards"]:
        assert shard["raw_data"]["bytes"] <= 1000
        assert set(shard["raw_data"]["hashes"]) == {"xxh64"}


def test_json_in_mds_only(tmp_path: Path) -> None:
    write_mds(tmp_path / "a", {"x": "json"}, [{"x": {"a": [1]}}, {"x": None}])
    assert read_all(tmp_path / "a", write_mds)["x"].tolist() == [{"a": [1]}, None]
    with pytest.raises(ValueError, match="json"):
        write_zarr(tmp_path / "b", {"x": "json"}, [{"x": 1}])


@both
@pytest.mark.parametrize(
    ("encoding", "value", "shown"),
    [
        ("int", 1.5, "1.5"),
        ("int", True, "True"),
        ("uint8", 256, "256"),
        ("int8", np.int64(-129), "-129"),
        ("str", b"x", "bytes"),
        ("bytes", "x", "str"),
        ("float32", "1", "str"),
        ("float32", 1e300, "1e[+]300"),
        ("float16", 1e10, "10000000000"),
        ("ndarray:uint8:2", np.zeros(2, np.int64), "int64"),
        ("ndarray:uint8:2", np.zeros(3, np.uint8), r"\(3,\)"),
    ],
)
def test_values_that_do_not_fit_name_their_row(
    tmp_path: Path, write: Write, encoding: str, value: object, shown: str
) -> None:
    good: Any = {
        "int": 1,
        "uint8": 1,
        "int8": 1,
        "str": "",
        "bytes": b"",
        "float32": 1.0,
        "float16": 1.0,
    }
    first = good.get(encoding, np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match=rf"'x' of row 1 .*{encoding}.*{shown}"):
        write(tmp_path / "a", {"x": encoding}, [{"x": first}, {"x": value}])
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        ({}, {}, "at least one column"),
        ({"x": "pkl"}, {"x": 1}, "pkl"),
        ({"a/b": "int"}, {"a/b": 1}, "must have a name without '/', got 'a/b'"),
        ({"": "int"}, {"": 1}, "must have a name without '/', got ''"),
        ({"x": "complex64"}, {"x": 1}, "complex64"),
        ({"x": "ndarray:int:2"}, {"x": 1}, "ndarray:int:2"),
        ({"x": "ndarray:uint8:0"}, {"x": 1}, "ndarray:uint8:0"),
        ({"x": "ndarray"}, {"x": 1}, "ndarray"),
        ({"x": "int"}, {"x": 1, "y": 2}, r"row 0 must have the columns \['x'\]"),
        ({"x": "int"}, {}, "leave none out"),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path, write: Write, columns: dict[str, str], row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a", columns, [row])
    assert list(tmp_path.iterdir()) == []


@both
def test_no_rows(tmp_path: Path, write: Write) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        write(tmp_path / "a", COLUMNS, [])
    assert list(tmp_path.iterdir()) == []


@both
def test_what_exists_is_replaced_on_request_only(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "a"
    write(path, COLUMNS, rows(3))
    with pytest.raises(ValueError, match="must not exist yet"):
        write(path, COLUMNS, rows(4))
    assert len(read_all(path, write)["caption"]) == 3
    write(path, COLUMNS, rows(4), overwrite=True)
    assert len(read_all(path, write)["caption"]) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@both
def test_an_error_leaves_the_old_data_set(tmp_path: Path, write: Write) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from rows(40)
        raise RuntimeError("the disk is gone")

    write(tmp_path / "a", COLUMNS, rows(3))
    with pytest.raises(RuntimeError, match="gone"):
        write(tmp_path / "a", COLUMNS, broken(), overwrite=True)
    assert len(read_all(tmp_path / "a", write)["caption"]) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@both
def test_only_data_sets_are_overwritten(tmp_path: Path, write: Write) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("years of work")
    with pytest.raises(ValueError, match="can be overwritten"):
        write(tmp_path / "thesis", COLUMNS, rows(3), overwrite=True)
    assert (tmp_path / "thesis/chapter1.txt").exists()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", COLUMNS, rows(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["write_mds", "write_zarr"])
def test_a_killed_process_leaves_nothing_under_the_name(tmp_path: Path, name: str) -> None:
    program = f"""
import time
from jest_loader.pack import {name}
def rows():
    for number in range(10**9):
        yield {{"x": number}}
        if number == 2000:
            print("half way", flush=True)
            time.sleep(60)
{name}({str(tmp_path / "a")!r}, {{"x": "int"}}, rows())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half way\n"
        process.kill()
    assert not (tmp_path / "a").exists()
    assert [entry.name[:11] for entry in tmp_path.iterdir()] == [".a.partial-"]


def test_zarr_chunks_are_shared_checked_and_never_left_out(tmp_path: Path) -> None:
    columns = {"zero": "float32", "text": "str"}
    write_zarr(tmp_path / "a", columns, [{"zero": 0.0, "text": ""}] * 20, chunk_rows=8)
    for name in columns:
        chunks = sorted((tmp_path / "a" / name / "c").iterdir())
        assert len(chunks) == 3
    metadata = json.loads((tmp_path / "a/zero/zarr.json").read_text())
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "zstd", "crc32c"]
    shutil.rmtree(tmp_path / "a/zero/c")
    with pytest.raises(ValueError, match=r"'zero'.*must have 3 chunks, got 0"):
        ZarrSource(tmp_path / "a", batch_size=2)
