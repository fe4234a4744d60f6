"""A captions file takes nothing from outside its folder, waits for nothing, and writes no codes."""

import io
import os

import pytest
from PIL import Image

from jest_loader.adapters.mds import MdsSource
from jest_loader.checks import shown
from jest_loader.pack import PackConfig, pack


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture("red"))
    (tmp_path / "private" / "secret.png").write_bytes(picture("blue"))
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "private")
    (tmp_path / "photos" / "file.png").symlink_to(tmp_path / "private" / "secret.png")
    (tmp_path / "photos" / "inside.png").symlink_to("a.png")
    (tmp_path / "photos" / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "photos" / "pipe")
    return tmp_path


def packed(folder, names, **options):
    (folder / "t.csv").write_text("file,caption\n" + "".join(f"{name},x\n" for name in names))
    return pack(
        PackConfig(
            (folder / "photos",), folder / "out", captions=folder / "t.csv",
            max_skipped_fraction=1.0, **options,
        )
    )  # fmt: skip


def outside(folder):
    return ["../private/secret.png", folder / "private/secret.png", "link/secret.png", "file.png"]


def test_pictures_outside_the_folder_are_skipped(folder):
    tally = packed(folder, ["a.png", "inside.png", *outside(folder)])
    assert tally.written == 2
    assert tally.skipped == {"outside the input folder (--allow-outside takes it)": 4}
    (batch,) = MdsSource(folder / "out", batch_size=2)
    assert {bytes(image) for image in batch["image"]} == {picture("red")}


def test_pictures_outside_the_folder_are_taken_where_that_is_asked_for(folder):
    assert packed(folder, outside(folder), allow_outside=True).written == 4


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_waited_for(folder):
    tally = packed(folder, ["a.png", "pipe", "/dev/zero", "loop.png"], allow_outside=True)
    assert tally.written == 1
    assert tally.skipped["unreadable file (no regular file)"] == 2
    assert tally.skipped.total() == 3


def test_unreadable_files_of_a_kind_are_counted_as_one(folder):
    for name in ("big0.png", "big1.png"):
        with (folder / "photos" / name).open("wb") as file:
            file.truncate((1 << 28) + 1)
    (folder / "photos" / "loop2.png").symlink_to("loop2.png")
    names = ["a.png", "big0.png", "big1.png", "n" * 300, "m" * 300, "loop.png", "loop2.png", "."]
    assert packed(folder, names).skipped == {
        "unreadable file (more than 256 MiB)": 2,
        "unreadable file (File name too long)": 2,
        "unreadable file (Too many levels of symbolic links)": 2,
        "unreadable file (no regular file)": 1,
    }


def test_names_write_no_codes_to_a_terminal(folder, caplog):
    packed(folder, ["a.png", "\x1b]0;owned\x07\x1b[31mred.png", "n" * 5000])
    assert "\x1b" not in caplog.text
    assert r"skipped \x1b]0;owned\x07\x1b[31mred.png (line 3): missing file" in caplog.text
    assert len(caplog.text) < 2000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größe 日本", "größe 日本"),
        ("a\nb\tc\x9b\u2028\u202e", r"a\nb\tc\x9b\u2028\u202e"),
        ("\ud800", r"\ud800"),
        (3, "3"),
        ("x" * 300, "x" * 200 + "... (300 characters)"),
    ],
)
def test_what_others_wrote_is_shown_without_codes(text, expected):
    assert shown(text) == expected


def test_what_cannot_be_shown_is_named_by_its_kind():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "a list"
