"""Captions files and lists of classes of other encodings, delimiters and lengths than expected."""

import io
import json
import os
import tracemalloc

import pytest
from PIL import Image

from jest_loader.adapters.mds import MdsSource
from jest_loader.clip.evaluation.class_names import read_class_names
from jest_loader.pack import PackConfig, lines, pack
from jest_loader.pack.folder import CaptionFile
from jest_loader.pack.records import Tally


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (tmp_path / "photos" / "0.png").write_bytes(buffer.getvalue())
    return tmp_path


def packed(folder, content, suffix=".csv", **options):
    table = folder / f"t{suffix}"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = {"max_skipped_fraction": 1.0} | options
    return pack(PackConfig((folder / "photos",), folder / "out", captions=table, **options))


def captions(folder):
    (batch,) = MdsSource(folder / "out", batch_size=10, drop_last=False)
    return batch["caption"]


LONG = "word " * 40_000


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_long_caption_is_taken(folder, suffix):
    delimiter = "\t" if suffix == ".tsv" else ","
    text = f"file{delimiter}caption\n0.png{delimiter}{LONG}\n"
    if suffix == ".jsonl":
        text = json.dumps({"file": "0.png", "caption": LONG})
    assert packed(folder, text, suffix).written == 1
    assert captions(folder) == [LONG.strip()]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('file,caption\n0.png,a\n0.png,"big" cat\n', "line 3 "),
        ('file,caption\n0.png,a\n0.png,"big\ncat\n', "the record of lines 3 to 4 "),
        ('file,caption\n"0.png,a\n', "the record of|line 2 "),
        ("file,caption\n0.png,a\n0.png,a\0b\n", "line 3 .*NUL byte"),
        (b"file,caption\n0.png,a\n0.png,caf\xe9\n", "UTF-8.* line 3 .*byte 0xe9.*iconv"),
        ("file,caption\n0.png,a\n".encode("utf-16"), "in UTF-16 .*iconv -f UTF-16"),
        ("file,caption\n0.png,a\n".encode("utf-32"), "in UTF-32 .*iconv -f UTF-32"),
        ("file,caption\n0.png,a\n".encode("utf-16-le"), "line 1 .*NUL byte.*UTF-16LE"),
        ("file;caption\n0.png;a, b\n", "separated by ',', but its first line has ';'"),
        ("file\tcaption\n0.png\ta\n", r"first line has '\\t': .*\.tsv"),
        ("sep=;\nfile;caption\n", "first line has ';'"),
        ("", r"columns \['file', 'caption'\], got \[\]; set --file-column"),
        ("\x1b[31m" + "c" * 9999 + ",d\n", r"\\x1b\[31mc.*characters\); set --file-column"),
    ],
    ids=[
        "stray quote", "open quote", "open quote at first", "NUL", "latin-1", "UTF-16", "UTF-32",
        "UTF-16 without a mark", "semicolons", "tabs", "a line of Excel's", "empty", "columns",
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_where(folder, content, place):
    with pytest.raises(ValueError, match=place) as raised:
        packed(folder, content)
    assert len(str(raised.value)) < 600
    assert not (folder / "out").exists()


def test_a_tsv_with_commas_is_said_so(folder):
    with pytest.raises(ValueError, match=r"separated by '\\t', but its first line has ','"):
        packed(folder, "file,caption\n0.png,a\n", ".tsv")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_spreadsheets_are_taken(folder, ending):
    text = "\ufeff" + ending.join(["file,caption", '0.png,"two', 'lines"', "0.png,ä", ""])
    assert packed(folder, text).written == 2
    assert sorted(captions(folder)) == [f"two{ending}lines", "ä"]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b'{"file": "' + b"x" * 3000, ".jsonl"),
        (b"file,caption\n0.png," + b"x" * 3000, ".csv"),
        (b"file,caption\n" + b'"\n",' * 1000, ".csv"),
        (b'file,caption\n"' + b"0.png,x\n" * 400, ".csv"),
        (b"file,capt" + b"x" * 3000, ".csv"),
    ],
    ids=["one line of JSON", "one line", "many lines", "an open quote", "the header"],
)
def test_a_record_of_any_length_is_an_error(folder, monkeypatch, content, suffix):
    monkeypatch.setattr(lines, "MOST_LETTERS", 1 << 10)
    with pytest.raises(ValueError, match=r"at most .* characters, but .* of .*t\."):
        packed(folder, content, suffix)


def test_a_file_without_lines_costs_little_memory(folder):
    with (folder / "t.jsonl").open("wb") as file:
        file.truncate(5 << 30)
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 16 Mi characters, but line 1"):
        CaptionFile(folder / "t.jsonl", "file", "caption", ())
    assert tracemalloc.get_traced_memory()[1] < 200_000_000
    tracemalloc.stop()


def test_odd_json_lines_are_skipped(folder):
    good = {"file": "0.png", "caption": "a"}
    odd = [
        "[" * 100_000,
        '{"file": "0.png", "caption": ' + "[" * 100_000,
        '{"file": "0.png", "caption": ' + "1" * 10_000 + "}",
        '{"file": "0.png", "caption": null}',
        '{"file": "\\ud800", "caption": "a"}',
        '{"file": "0.png", "caption": "c\\u0000a\\u0000t\\u0000"}',
    ]
    tally = packed(folder, "\n".join([json.dumps(good), *odd]), ".jsonl")
    assert (tally.written, tally.skipped.total()) == (1, 6)


def test_duplicates_do_not_hold_their_captions(folder):
    rows = [{"file": "0.png", "caption": f"{n} " + "x" * 100_000} for n in range(99)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = CaptionFile(folder / "t.jsonl", "file", "caption", ())
    tracemalloc.start()
    num_records = sum(1 for _ in table.records(folder / "photos", Tally(1.0)))
    kept = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_records == 99
    assert kept < 3_000_000


@pytest.mark.parametrize(
    "content",
    ["a\nb\0".encode("utf-16"), b"a\ncaf\xe9", b"[" * 100_000],
    ids=["UTF-16", "latin-1", "deep"],
)
def test_lists_of_classes_in_no_form_are_an_error(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"in UTF-8, one a line or in a JSON list.*classes\.json"):
        read_class_names(path)


@pytest.mark.timeout(20)
def test_lists_of_classes_are_small_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate((1 << 24) + 1)
    for name, reason in [("pipe", "no regular file"), ("large", "more than 16 MiB")]:
        with pytest.raises(OSError, match=f"{reason}.*{name}"):
            read_class_names(tmp_path / name)
    with pytest.raises(OSError, match="no regular file"):
        read_class_names(tmp_path)


def test_line_ends_of_lists_of_classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\ndog\rcow\n")
    assert read_class_names(path) == ("cat", "dog", "cow")
