"""A disk that is full, and a place that cannot be written to, are named, and nothing is left."""

import os

import pytest

from jest_loader.files import replacing
from jest_loader.pack import write_mds, write_zarr

ROWS = [{"x": os.urandom(3000)} for _ in range(9)]


@pytest.mark.parametrize("write", [write_mds, write_zarr])
def test_a_full_disk_is_named_with_the_output(tmp_path, write, full_disk):
    with pytest.raises(OSError, match=r"too large \(make room, .*\): '.*/out'"):
        write(tmp_path / "out", {"x": "bytes"}, ROWS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_a_file_as_it_was(tmp_path, full_disk):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with (
        pytest.raises(OSError, match=r"too large \(make room, .*\): '.*/a\.json'"),
        replacing(path) as part,
    ):
        part.write_bytes(bytes(3000))
    assert (path.read_text(), os.listdir(tmp_path)) == ("{}", ["a.json"])


@pytest.mark.parametrize("write", [write_mds, write_zarr])
def test_an_output_that_cannot_be_made_is_named(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"that can be written to, but '.*/file/out' is not"):
        write(tmp_path / "file" / "out", {"x": "bytes"}, ROWS)


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="/elsewhere'"), replacing(tmp_path / "a") as part:
        part.write_bytes((tmp_path / "elsewhere").read_bytes())
