"""Shards that are written to while they are read, and an index or shards that lie."""

import os
import subprocess
import sys

import pytest

from jest_loader.adapters.mds import MdsSource, shard_files
from jest_loader.pack import write_mds

ROWS = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two shards of large rows, read as if the shards were large."""
    monkeypatch.setattr(shard_files, "_LEAST_FILE_BYTES", 0)
    write(tmp_path / "data", b"a")
    return tmp_path / "data"


def write(folder, letter):
    columns = {"image": "jpeg", "name": "str", "size": "int"}
    rows = ({"image": letter * 5000, "name": letter.decode(), "size": row} for row in range(ROWS))
    write_mds(folder, columns, rows, shard_bytes=200_000)


def written_over(path, content):
    """As ``cp`` does."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)


DAMAGES = {
    "empty": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 5000),
    "longer": lambda path: os.truncate(path, 10**6),
    "copied over": lambda path: written_over(path, path.read_bytes().replace(b"a", b"b")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_shards_written_to_while_they_are_read_are_named(folder, damage):
    batches = iter(MdsSource(folder, batch_size=10, shuffle=False))
    first, second = next(batches), next(batches)
    assert first["image"][3] == b"a" * 5000
    damage(folder / "shard.00000.mds")
    named = r"shard.00000.mds was written to .* start again, and replace a file by renaming"
    with pytest.raises(ValueError, match=named):
        next(batches)
    with pytest.raises(ValueError, match=named):
        second["image"].views()
    with pytest.raises(ValueError, match=named):
        second["image"].view(0)
    assert second["name"] == ["a"] * 10


def test_other_names_and_modes_of_a_shard_in_use_do_no_harm(folder):
    batches = iter(MdsSource(folder, batch_size=10, shuffle=False))
    next(batches)
    shard = folder / "shard.00000.mds"
    os.link(shard, folder / "kept")
    shard.chmod(0o400)
    assert next(batches)["size"].tolist() == list(range(10, 20))
    shard.unlink()
    assert next(batches)["image"][9] == b"a" * 5000


READ = """
import sys
from jest_loader.adapters.mds import MdsSource
while True:
    for batch in MdsSource(sys.argv[1], batch_size=100, columns=["image"]):
        list(batch["image"])
        print("read", flush=True)
"""


@pytest.mark.slow
def test_a_process_outlives_what_is_copied_over_its_shards(tmp_path):
    for name, letter in (("data", b"a"), ("new", b"b")):
        rows = ({"image": letter * 20_000} for _ in range(1000))
        write_mds(tmp_path / name, {"image": "jpeg"}, rows, shard_bytes=2_000_000)
    command = [sys.executable, "-c", READ, str(tmp_path / "data")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as reading:
        assert reading.stdout.readline() == "read\n"
        for new in sorted((tmp_path / "new").glob("*.mds")):
            written_over(tmp_path / "data" / new.name, new.read_bytes())
        _, told = reading.communicate(timeout=60)
    assert reading.returncode == 1
    assert "ValueError: shard " in told.splitlines()[-1]
    assert ".mds " in told.splitlines()[-1]
