"""Shards that are written to while they are read, or inflate to what the index does not say."""

import bz2
import gzip
import json
import os
import resource
import subprocess
import sys

import brotli  # type: ignore[import-untyped]
import pytest
from streaming.base.compression import compress

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


def test_too_many_open_files_are_said_with_the_remedy(folder):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = MdsSource(folder, batch_size=10)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(OSError, match=r"shard.0000\d.mds cannot be opened, .* \(ulimit -n\)"):
            next(iter(source))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path, compression):
    write_mds(tmp_path, {"name": "str"}, [{"name": "a"}], compression=compression)
    (shard,) = tmp_path.glob("shard.*")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(OSError, match=r"no regular file: .*shard\.00000\.mds"):
        list(MdsSource(tmp_path, batch_size=1))


def test_other_names_and_modes_of_a_shard_in_use_do_no_harm(folder):
    batches = iter(MdsSource(folder, batch_size=10, shuffle=False))
    next(batches)
    shard = folder / "shard.00000.mds"
    os.link(shard, folder / "kept")
    shard.chmod(0o400)
    assert next(batches)["size"].tolist() == list(range(10, 20))
    shard.unlink()
    assert next(batches)["image"][9] == b"a" * 5000


COMPRESSIONS = ("br", "bz2", "gz", "snappy", "zstd")


def brotli_bomb():
    packing = brotli.Compressor(quality=3)
    return b"".join([*(packing.process(bytes(MANY)) for _ in range(200)), packing.finish()])


# A million zeros inflate 200 times.
MANY = 10**6
BOMBS = {
    "br": brotli_bomb,
    "bz2": lambda: bz2.compress(bytes(MANY)) * 200,
    "gz": lambda: gzip.compress(bytes(MANY)) * 200,
    "zstd": lambda: compress("zstd", bytes(MANY)) * 200,
}


@pytest.fixture
def packed(tmp_path, request):
    """A shard that holds something else, and how many bytes it must have."""
    compression = request.param
    rows = ({"name": "a"} for _ in range(ROWS))
    write_mds(tmp_path, {"name": "str"}, rows, compression=compression)
    assert len(next(iter(MdsSource(tmp_path, batch_size=ROWS)))["name"]) == ROWS
    (shard,) = tmp_path.glob("shard.*")
    index = json.loads((tmp_path / "index.json").read_text())
    info = index["shards"][0]

    def pack(content):
        shard.write_bytes(content)
        info["zip_data"] = {"basename": shard.name, "bytes": len(content), "hashes": {}}
        (tmp_path / "index.json").write_text(json.dumps(index))
        return MdsSource(tmp_path, batch_size=ROWS)

    return info["raw_data"]["bytes"], compression, pack


@pytest.mark.parametrize("more", [1, -1], ids=["one more", "one less"])
@pytest.mark.parametrize("packed", COMPRESSIONS, indirect=True)
def test_a_shard_inflates_to_as_many_bytes_as_the_index_says(packed, more):
    num_bytes, compression, pack = packed
    source = pack(compress(compression, bytes(num_bytes + more)))
    with pytest.raises(ValueError, match=f"cannot be decompressed to the {num_bytes} bytes that"):
        list(source)


@pytest.mark.parametrize("packed", BOMBS, indirect=True)
def test_a_shard_that_would_inflate_without_limit_takes_no_memory(packed):
    num_bytes, compression, pack = packed
    source = pack(BOMBS[compression]())
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"cannot be decompressed to the {num_bytes} bytes that"):
        list(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


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
