"""Parquet files that a stranger wrote, or that change: one sentence each."""

import os
import random
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from jest_loader.adapters.parquet import ParquetSource, footer, row_group
from tests.adapters.parquets import write_files


def source(path, **options):
    return ParquetSource(path, batch_size=1, shuffle=False, drop_last=False, **options)


def whole(tmp_path, rows=20, **options):
    folder = write_files(tmp_path / "data", 1, rows, **options)
    return folder / "train-00000-of-00001.parquet"


DAMAGES = {
    "nothing": (lambda content: b"", "must be a Parquet file, but is none"),
    "of another kind": (lambda content: b"x" * 999, "must be a Parquet file, but is none"),
    "cut short": (lambda content: content[:-9], "cut short or damaged; fetch it again"),
    "the magic alone": (lambda content: b"PAR1", "cut short or damaged"),
    "a footer longer than it": (
        lambda content: content[:-8] + b"\xff\xff\xff\xff" + content[-4:],
        "cut short or damaged",
    ),
    "a footer of noise": (
        lambda content: content[:-500] + b"\xff" * 492 + content[-8:],
        "must be a whole Parquet file, but cannot be read",
    ),
    "encrypted": (lambda content: content[:-4] + b"PARE", "must not be encrypted"),
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_named(tmp_path, damage, error):
    path = whole(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + error):
        source(path)


def test_files_without_rows_are_named(tmp_path):
    parquet.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet must hold at least one row"):
        source(tmp_path)


def test_a_damaged_page_is_an_error_that_names_its_file(tmp_path):
    path = whole(tmp_path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    place = content.index("ä 2".encode())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + " must be a whole Parquet file"):
        list(source(path))


def other(path):
    parquet.write_table(pa.table({"n": [1]}), path.with_name("new"))
    path.with_name("new").replace(path)


CHANGES = {
    "replaced": (other, ValueError, "was replaced or written to while it was in use"),
    "written to": (lambda path: os.truncate(path, 99), ValueError, "was replaced or written to"),
    "removed": (lambda path: path.unlink(), FileNotFoundError, "is not there any more"),
}


@pytest.mark.parametrize(("change", "kind", "error"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_while_in_use_is_named(tmp_path, change, kind, error):
    path = whole(tmp_path)
    batches = iter(source(path))
    next(batches)
    change(path)
    with pytest.raises(kind, match=re.escape(str(path)) + ".*" + error):
        list(batches)


def test_a_file_written_to_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = whole(tmp_path)
    found = source(path)
    check = footer.Footer.check_same

    def then_write(self, file):
        check(self, file)
        os.truncate(path, 99)

    monkeypatch.setattr(footer.Footer, "check_same", then_write)
    with pytest.raises(ValueError, match=re.escape(str(path)) + " was written to"):
        list(found)


def test_row_groups_that_claim_too_much_are_refused(tmp_path, monkeypatch):
    path = whole(tmp_path)
    monkeypatch.setattr(row_group, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"may have 100 bytes, .* write smaller row groups"):
        list(source(path))


def test_row_groups_that_claim_far_more_than_their_file_are_refused(tmp_path, monkeypatch):
    texts = pa.table({"text": ["a" * 1_000_000]})
    parquet.write_table(texts, tmp_path / "a.parquet", compression="zstd")
    assert len(list(source(tmp_path))) == 1
    monkeypatch.setattr(row_group, "_FREE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"more than 256 times .*a\.parquet claims 1000050"):
        list(source(tmp_path))


def test_rows_that_expand_are_counted_while_they_are_read(tmp_path, monkeypatch):
    """A dictionary's one entry makes many rows: the footer claims a megabyte for 200."""
    texts = pa.table({"text": ["a" * 1_000_000] * 200})
    parquet.write_table(texts, tmp_path / "a.parquet", dictionary_pagesize_limit=1 << 22)
    monkeypatch.setattr(row_group, "_MOST_BYTES", 20_000_000)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="have more than 20000000"):
        list(source(tmp_path))
    assert pa.default_memory_pool().max_memory() - before < 100_000_000


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(footer, "_MOST_ROWS", 3)
    with pytest.raises(ValueError, match=r"from 0 to 3 rows, but one of .* says 4"):
        source(whole(tmp_path))


def test_row_groups_with_fewer_rows_than_claimed_are_an_error(tmp_path, monkeypatch):
    path = whole(tmp_path)
    batches = row_group._batches
    monkeypatch.setattr(row_group, "_batches", lambda *given: [*batches(*given)][:0])
    with pytest.raises(ValueError, match="must have 4 rows as its footer says, but has 0"):
        list(source(path))


def test_names_are_shown_escaped(tmp_path):
    path = tmp_path / "a\x1b[31m.parquet"
    path.write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match=r"a\\x1b\[31m\.parquet must be a Parquet file"):
        source(path)


def test_changed_bytes_are_one_sentence_or_read(tmp_path):
    path = whole(tmp_path, rows=9)
    content = path.read_bytes()
    draw = random.Random(0)
    outcomes = set()
    for number in range(150):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 3])):
            # Half of them in the footer.
            first = len(content) - 4000 if number % 2 else 0
            changed[draw.randrange(max(0, first), len(content))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            for batch in source(path):
                assert len(batch["skip_reason"]) == 1
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
