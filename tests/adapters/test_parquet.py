"""Parquet files as a source."""

import json
import os
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jest_loader.adapters.parquet import ParquetSource
from jest_loader.adapters.parquet.column_kind import ColumnKind
from jest_loader.adapters.parquet.values import column_of
from jest_loader.ragged import RaggedBytes
from jest_loader.testing.conformance import check_source
from tests.adapters.parquets import image, table, write_files

ROWS = 33


def whole(urls, **options):
    (batch,) = ParquetSource(urls, batch_size=10_000, shuffle=False, drop_last=False, **options)
    return batch


def written(tmp_path, columns, **options):
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", **options)
    return tmp_path / "a.parquet"


def test_it_keeps_all_promises_of_a_source(tmp_path):
    write_files(tmp_path / "data")
    check_source(
        lambda: ParquetSource(tmp_path / "data", batch_size=3, drop_last=False),
        id_column="sample_id",
        num_rows=ROWS,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"use_dictionary": False, "write_page_checksum": True},
        {"store_schema": True, "row_group_size": 1000, "data_page_size": 20},
    ],
    ids=["as usual", "zstd", "plain", "one group of small pages"],
)
def test_columns_hold_what_was_written(tmp_path, options):
    batch = whole(write_files(tmp_path / "data", **options))
    numbers = [*range(ROWS)]
    assert isinstance(batch["image"], RaggedBytes)
    assert batch["image"] == [image(n) for n in numbers]
    assert batch["raw"] == [image(n + 1) for n in numbers]
    assert batch["text"] == [f"ä {n}" for n in numbers]
    assert batch["long"] == [f"long {n}" for n in numbers]
    assert batch["source"] == [f"of {n % 3}" for n in numbers]
    assert batch["n"].tolist() == batch["sample_id"].tolist() == numbers
    assert batch["good"].tolist() == [n % 3 == 0 for n in numbers]
    assert batch["emb"].tolist() == [[n, n / 2] for n in numbers]
    dtypes = {name: batch[name].dtype for name in ("n", "small", "half", "good", "emb")}
    assert dtypes == {
        "n": np.int64, "small": np.uint8, "half": np.float16, "good": np.bool_, "emb": np.float32
    }  # fmt: skip
    assert batch["skip_reason"] == [""] * ROWS
    assert "tags" not in batch


def test_files_with_the_schema_of_datasets_are_read(tmp_path):
    """``Dataset.to_parquet`` writes images so, and says in the metadata that they are images."""
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    kept = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = table(range(5)).select(["image", "text"]).replace_schema_metadata(kept)
    batch = whole(written(tmp_path, rows))
    assert batch["image"] == [image(n) for n in range(5)]
    assert batch["text"][4] == "ä 4"


def test_only_the_columns_that_are_named_are_read(tmp_path):
    batch = whole(write_files(tmp_path / "data"), columns=["text", "image"])
    assert [*batch] == ["image", "text", "skip_reason", "sample_id"]


def test_a_resumed_run_reads_what_is_left_on_each_rank(tmp_path):
    folder = write_files(tmp_path / "data", rows=40)

    def source(rank):
        made = ParquetSource(folder, batch_size=5, columns=["n"], window_rows=20, seed=3)
        made.shard(rank, 2)
        return made

    rows = []
    for rank in range(2):
        one, other = source(rank), source(rank)
        batches = iter(one)
        rows += [n for _ in range(5) for n in next(batches)["n"].tolist()]
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        rest = [batch["n"].tolist() for batch in batches]
        assert [batch["n"].tolist() for batch in other] == rest
        rows += [n for batch in rest for n in batch]
    assert sorted(rows) == [*range(120)]


def test_rows_that_lack_something_say_what(tmp_path):
    lists = pa.array([[1.0, 2.0], [1.0, None], None, [5.0, 6.0]], pa.list_(pa.float32(), 2))
    path = written(
        tmp_path,
        {
            "image": [None, {"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": None}, None],
            "text": ["a", "b", None, "d"],
            "n": [None, 2, 3, 4],
            "emb": lists,
        },
    )
    where = f"row {{}} of {path}: its "
    cases = {
        "image": ["image is null", "image has no bytes, at most a path", "", "image is null"],
        "text": ["", "", "text is null", ""],
        "n": ["n is null", "", "", ""],
        "emb": ["", "emb has an item that is null", "emb is null", ""],
    }
    for name, reasons in cases.items():
        expected = [(where + r).format(row) if r else "" for row, r in enumerate(reasons)]
        assert whole(path, columns=[name])["skip_reason"] == expected
    batch = whole(path)
    assert batch["image"] == [b"", b"", b"x", b""]
    assert batch["text"] == ["a", "b", "", "d"]
    assert batch["n"].tolist() == [0, 2, 3, 4]
    assert batch["emb"].tolist() == [[1, 2], [1, 0], [0, 0], [5, 6]]
    assert batch["skip_reason"][0].endswith("its image is null")


def test_rows_are_named_by_their_place_in_the_file(tmp_path):
    texts = [None if n == 150 else "a" for n in range(200)]
    path = written(tmp_path, {"text": texts}, row_group_size=100)
    reasons = whole(path)["skip_reason"]
    assert reasons[150] == f"row 150 of {path}: its text is null"
    assert reasons.count("") == 199


def test_text_that_is_not_utf_8_is_a_bad_row(tmp_path):
    buffers = pa.array([b"a", b"\xff", b"c"]).buffers()
    path = written(tmp_path, {"text": pa.Array.from_buffers(pa.string(), 3, buffers)})
    batch = whole(path)
    assert batch["text"] == ["a", "", "c"]
    assert batch["skip_reason"] == ["", f"row 1 of {path}: its text is no text in UTF-8", ""]


REFUSED = {
    "lists of any length": ("tags", r"column 'tags' of .* but is list<.*leave it out of columns"),
    "times": ("time", "'time' .* but is timestamp"),
    "decimals": ("money", "'money' .* but is decimal128"),
    "other structs": ("box", "'box' .* but is struct<x: int64>"),
    "wide lists": ("wide", "'wide' .* but is fixed_size_list"),
    "reasons": ("skip_reason", "must not be named 'skip_reason'"),
    "none of it": ("other", "columns must be some of those in"),
}


@pytest.mark.parametrize(("name", "error"), REFUSED.values(), ids=REFUSED)
def test_columns_that_cannot_be_read_are_refused_by_name(tmp_path, name, error):
    wide = pa.array([None], pa.list_(pa.float64(), (1 << 23) + 1))
    columns = {
        "text": ["a"], "tags": [["a"]], "time": pa.array([0], pa.timestamp("s")),
        "money": pa.array([None], pa.decimal128(5)), "box": [{"x": 1}], "skip_reason": [""],
    }  # fmt: skip
    path = written(tmp_path, columns | ({"wide": wide} if name == "wide" else {}))
    with pytest.raises(ValueError, match=error):
        ParquetSource(path, batch_size=1, columns=["text", name])
    if name != "wide":
        assert [*whole(path)] == ["text", "skip_reason", "sample_id"]


def test_columns_there_twice_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    path = written(tmp_path, twice)
    with pytest.raises(ValueError, match=r"'text' .* is there several times"):
        ParquetSource(path, batch_size=1, columns=["text"])


def test_files_with_other_columns_are_named(tmp_path):
    folder = write_files(tmp_path / "data")
    parquet.write_table(pa.table({"text": [1], "n": [1]}), folder / "u.parquet")
    assert len(whole(folder, columns=["n"])["n"]) == ROWS + 1
    with pytest.raises(
        ValueError, match=r"train-00000.*'text' of text and .*u\.parquet has 'text' of"
    ):
        whole(folder, columns=["text"])
    with pytest.raises(ValueError, match=r"u\.parquet has no column 'emb'"):
        whole(folder, columns=["emb"])


def test_patterns_and_braces_choose_files(tmp_path):
    folder = write_files(tmp_path / "data")
    for urls in (f"{folder}/train-*.parquet", f"{folder}/train-{{00000..00002}}-of-00003.parquet"):
        assert len(whole(urls)["n"]) == ROWS
    assert len(whole([folder / "train-00001-of-00003.parquet"])["n"]) == 11
    with pytest.raises(ValueError, match="must hold Parquet files"):
        whole(tmp_path)


def test_the_fingerprint_tells_the_data_and_grows_with_it(tmp_path):
    folder = write_files(tmp_path / "data", num_files=2)
    before = ParquetSource(folder, batch_size=1, columns=["n"])
    assert ParquetSource(folder, batch_size=1).fingerprint() == before.fingerprint()
    write_files(tmp_path / "more", num_files=3)
    names = ["train-00000-of-00003.parquet", "train-00001-of-00003.parquet"]
    assert ParquetSource(tmp_path / "more", batch_size=1).fingerprint(22) == before.fingerprint()
    assert ParquetSource(tmp_path / "more", batch_size=1).fingerprint() != before.fingerprint()
    parquet.write_table(table(range(1, 12)), tmp_path / "more" / names[0], row_group_size=4)
    assert ParquetSource(tmp_path / "more", batch_size=1).fingerprint(22) != before.fingerprint()


def test_opening_reads_no_rows(tmp_path):
    path = written(tmp_path, {"raw": [os.urandom(1000) for _ in range(100)]}, compression="none")
    content = bytearray(path.read_bytes())
    content[100:90_000] = bytes(89_900)
    path.write_bytes(content)
    assert ParquetSource(path, batch_size=1).num_examples == 100


def test_pyarrow_that_is_missing_is_named_with_what_to_install(tmp_path, monkeypatch):
    folder = write_files(tmp_path / "data")
    monkeypatch.setattr("jest_loader.adapters.parquet.opened.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jest-loader\[parquet\]'"):
        ParquetSource(folder, batch_size=1)
    assert "pyarrow" in sys.modules


def test_what_lies_under_a_null_is_not_delivered():
    stored = pa.array([1, 2, 3], pa.int64()).buffers()[1]
    array = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), stored])
    values, reasons = column_of(ColumnKind("numbers", "int64"), array)
    assert values.tolist() == [1, 0, 3]
    assert reasons == {1: "is null"}
