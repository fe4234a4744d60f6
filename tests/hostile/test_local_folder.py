"""A folder that shards are fetched into serves and loses nothing of another data set."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from jest_loader.adapters.fetching.owner import MARK, claim
from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.pack import write_mds


@pytest.fixture
def folder(tmp_path):
    for name in ("mine", "theirs"):
        rows = [{"v": f"{name} {number}"} for number in range(60)]
        write_mds(tmp_path / name, {"v": "str"}, rows, shard_bytes=500)
    return tmp_path


def read(folder, remote, local):
    source = MdsSource(MdsStream(folder / remote, local=folder / local), batch_size=60)
    return [value.split()[0] for batch in source for value in batch["v"]]


def forget_hashes(path):
    index = json.loads((path / "index.json").read_text())
    for shard in index["shards"]:
        shard["raw_data"]["hashes"] = {}
    (path / "index.json").write_text(json.dumps(index))


def write_merged(path, letter, parts):
    """Several data sets under one index without hashes, as ``streaming`` merges them."""
    shards = []
    for part in parts:
        write_mds(path / part, {"v": "str"}, [{"v": letter + part}] * 20, overwrite=True)
        index = json.loads((path / part / "index.json").read_text())
        for shard in index["shards"]:
            shard["raw_data"] |= {"basename": f"{part}/shard.00000.mds", "hashes": {}}
        shards += index["shards"]
    (path / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def test_shards_in_folders_are_fetched_again_without_hashes(tmp_path):
    for letter, parts in (("a", "01"), ("b", "012")):
        write_merged(tmp_path / "remote", letter, parts)
        stream = MdsStream(tmp_path / "remote", local=tmp_path / "local")
        read = [value for batch in MdsSource(stream, batch_size=10) for value in batch["v"]]
        assert set(read) == {letter + part for part in parts}


def test_an_index_fetched_before_deletes_nothing_outside(folder):
    assert set(read(folder, "mine", "local")) == {"mine"}
    (folder / "thesis.txt").write_text("years of work")
    index = json.loads((folder / "local" / "index.json").read_text())
    index["shards"][0]["raw_data"]["basename"] = "../thesis.txt"
    (folder / "local" / "index.json").write_text(json.dumps(index))
    assert set(read(folder, "mine", "local")) == {"mine"}
    assert (folder / "thesis.txt").exists()


def test_a_data_set_is_no_folder_to_fetch_into(folder):
    before = sorted(file.name for file in (folder / "mine").iterdir())
    with pytest.raises(ValueError, match=r"local must be empty, .* holds index.json; choose anot"):
        read(folder, "theirs", "mine")
    assert sorted(file.name for file in (folder / "mine").iterdir()) == before
    assert len(list(MdsSource(folder / "mine", batch_size=60))) == 1


def test_two_remotes_do_not_share_a_folder(folder):
    for name in ("mine", "theirs"):
        forget_hashes(folder / name)
    assert set(read(folder, "mine", "local")) == {"mine"}
    assert set(read(folder, "mine", "local")) == {"mine"}
    with pytest.raises(ValueError, match=r"local' has files of .*mine; choose another folder"):
        read(folder, "theirs", "local")
    assert set(read(folder, "theirs", "other")) == {"theirs"}


@pytest.mark.parametrize("mark", ["", "[]", "{}", "[" * 100_000])
def test_a_damaged_mark_is_refused(folder, mark):
    (folder / "local").mkdir()
    (folder / "local" / MARK).write_text(mark)
    with pytest.raises(ValueError, match="has files of a remote that its damaged mark does not"):
        read(folder, "mine", "local")


def test_pipes_in_place_of_our_files_are_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    read(folder, "mine", "local")
    (folder / "pipe").rename(folder / "local" / "index.json")
    assert set(read(folder, "mine", "local")) == {"mine"}
    os.mkfifo(folder / "pipe")
    (folder / "pipe").rename(folder / "local" / MARK)
    with pytest.raises(ValueError, match="has files of a remote that its damaged mark does not"):
        read(folder, "mine", "local")


def test_processes_that_start_at_once_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: claim(tmp_path / "local", "s3://bucket/data/"), range(64)))
    claim(tmp_path / "local", "s3://bucket/data")
    with pytest.raises(ValueError, match="has files of s3://bucket/data; choose"):
        claim(tmp_path / "local", "s3://bucket/other")
