"""Overwriting deletes what belongs to a data set or a cache, and nothing else."""

import json
import os
from pathlib import Path

import pytest
import torch

from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache import build

ROWS = [{"caption": "a", "number": 1}, {"caption": "b", "number": 2}]
COLUMNS = {"caption": "str", "number": "int"}


def mds(path):
    write_mds(path, COLUMNS, ROWS, overwrite=True)


def zarr(path):
    write_zarr(path, COLUMNS, ROWS, overwrite=True)


def cache(path):
    batch = {"sample_id": torch.tensor([5, 3])}
    build(path, [batch], lambda batch: torch.ones(len(batch["sample_id"])), overwrite=True)


def everything(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def a_file(path):
    (path / "thesis.txt").write_text("years of work")


def a_deep_file(path):
    (path / "caption" / "notes").mkdir(parents=True)
    (path / "caption" / "notes" / "thesis.txt").write_text("years of work")


def a_link(path):
    (path / "thesis").symlink_to(path.parent / "elsewhere")


def a_link_to_a_folder(path):
    (path.parent / "elsewhere").mkdir()
    (path / "thesis").symlink_to(path.parent / "elsewhere", target_is_directory=True)


@pytest.mark.parametrize("write", [mds, zarr, cache])
@pytest.mark.parametrize("add", [a_file, a_deep_file, a_link, a_link_to_a_folder])
def test_what_does_not_belong_to_it_is_named_and_kept(tmp_path, write, add):
    path = tmp_path / "data"
    write(path)
    write(path)  # Nothing but its own.
    add(path)
    before = everything(path)
    with pytest.raises(ValueError, match=r"also holds .*thesis.*; move that away, or choose anoth"):
        write(path)
    assert everything(path) == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    "index",
    [
        *["{}", "[]", "no JSON", "[" * 100_000],
        *['{"shards": 3}', '{"attributes": null}', '{"attributes": 3}'],
    ],
)
@pytest.mark.parametrize("name", ["index.json", "zarr.json"])
@pytest.mark.parametrize("write", [mds, zarr])
def test_a_folder_with_a_file_of_that_name_is_no_data_set(tmp_path, write, name, index):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_text(index)
    with pytest.raises(ValueError, match=r"only a data set .*site' is none; choose another output"):
        write(tmp_path / "site")
    assert everything(tmp_path / "site") == {name: index.encode()}


@pytest.mark.parametrize("name", ["index.json", "zarr.json"])
def test_a_pipe_of_that_name_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"only a data set .* is none; choose another output"):
        mds(tmp_path)


def test_an_index_that_names_others_files_deletes_none_elsewhere(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "data").mkdir()
    shards = [
        {"raw_data": {"basename": "../thesis.txt"}},
        {"raw_data": {"basename": []}},
        None,
        {"raw_data": 3},
    ]
    (tmp_path / "data" / "index.json").write_text(json.dumps({"shards": shards}))
    mds(tmp_path / "data")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_a_building_is_no_cache(tmp_path, overwrite):
    (tmp_path / "site" / "building").mkdir(parents=True)
    (tmp_path / "site" / "building" / "plan.txt").write_text("of a house")
    (tmp_path / "site" / "thesis.txt").write_text("years of work")
    before = everything(tmp_path / "site")
    with pytest.raises(ValueError, match=r"holds (building/plan|thesis).txt"):
        build(
            tmp_path / "site",
            [{"sample_id": torch.tensor([5])}],
            torch.ones_like,
            overwrite=overwrite,
        )
    assert everything(tmp_path / "site") == before


def test_half_a_file_in_a_building_may_be_anothers(tmp_path):
    cache(tmp_path / "cache")
    (tmp_path / "cache" / "building").mkdir()
    (tmp_path / "cache" / "building" / ".film.mkv.part").write_text("half of it")
    with pytest.raises(ValueError, match=r"also holds building/.film.mkv.part"):
        cache(tmp_path / "cache")
    (tmp_path / "cache" / "building" / ".film.mkv.part").unlink()
    (tmp_path / "cache" / "building" / f".0.{'0a' * 16}.part").write_text("half of ours")
    cache(tmp_path / "cache")


@pytest.mark.parametrize("write", [mds, zarr, cache])
def test_a_link_to_what_is_overwritten_stays_one(tmp_path, write):
    write(tmp_path / "data")
    before = everything(tmp_path / "data").keys()
    (tmp_path / "link").symlink_to("data")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "link"]
    assert everything(tmp_path / "data").keys() == before
