"""A Zarr group is read as it was written, or one sentence names what is wrong with it."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import zarr
import zarr.errors

from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_zarr

COLUMNS = {"x": "int", "text": "str", "pair": "ndarray:int32:2"}


@pytest.fixture
def packed(tmp_path):
    rows = (
        {"x": row, "text": f"t{row}", "pair": np.array([row, -row], np.int32)} for row in range(12)
    )
    write_zarr(tmp_path / "packed", COLUMNS, rows, chunk_rows=4)
    return tmp_path / "packed"


@pytest.fixture(params=[2, 3], ids=["format2", "format3"])
def foreign(tmp_path, request):
    """A group of two arrays that zarr wrote; the chunks of x are not all fill values."""
    group = zarr.open_group(tmp_path / "foreign", mode="w", zarr_format=request.param)
    group.create_array("x", data=np.arange(1, 13, dtype=np.int32), chunks=(4,), fill_value=0)
    group.create_array("y", data=np.ones((12, 2), np.float32), chunks=(4, 2), fill_value=0)
    return tmp_path / "foreign"


def read(path, **options):
    batches = list(ZarrSource(path, batch_size=4, shuffle=False, **options))
    return np.concatenate([batch["x"] for batch in batches]).tolist()


def refused(path, match, **options):
    """Reading ends with one sentence that matches, and names the path."""
    with pytest.raises(ValueError, match=match) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 1500


def description(path, name):
    file = path / name / "zarr.json"
    return file if file.is_file() else path / name / ".zarray"


def chunk(path, name, number):
    """The file of a chunk of either format, of an array of one or two dimensions."""
    ends = [f"c/{number}", f"c/{number}/0", f"{number}", f"{number}.0"]
    return next(path / name / end for end in ends if (path / name / end).is_file())


def consolidate(path):
    with warnings.catch_warnings():  # Format 3 has no specification of it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_rows_appended_after_consolidation_are_read(foreign):
    consolidate(foreign)
    for name, more in (("x", np.arange(13, 17)), ("y", np.ones((4, 2)))):
        zarr.open_array(foreign / name, mode="a").append(more.astype(np.float32))
    assert read(foreign) == list(range(1, 17))


def test_an_array_made_after_consolidation_is_read(foreign):
    consolidate(foreign)
    zarr.open_group(foreign, mode="a").create_array("z", data=np.ones(12), chunks=(12,))
    (batch,) = ZarrSource(foreign, batch_size=12)
    assert batch["z"].tolist() == [1] * 12


def test_an_array_that_was_consolidated_and_is_gone_is_named(foreign):
    consolidate(foreign)
    shutil.rmtree(foreign / "y")
    refused(foreign, r"y/(zarr\.json|\.zarray) in .* is missing")


def test_consolidated_metadata_that_is_damaged_is_named(foreign):
    consolidate(foreign)
    if (foreign / ".zmetadata").is_file():
        (foreign / ".zmetadata").write_text("[" * 100_000)
    else:
        edit(foreign / "zarr.json", consolidated_metadata={"metadata": [1]})
    refused(foreign, r"(zarr\.json|\.zmetadata) in .* cannot be used")


def test_a_missing_chunk_is_named_unless_fill_values_are_meant(foreign):
    chunk(foreign, "x", 1).unlink()
    refused(
        foreign, r"'x' .* must have 3 chunks, got 2: (c/)?1 is missing.*fill_missing_chunks=True"
    )
    assert read(foreign, fill_missing_chunks=True) == [1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12]
    assert ZarrSource(foreign, batch_size=4, columns=["y"]).num_examples == 12


def test_chunks_behind_a_link_to_their_folder_are_there(foreign):
    first = chunk(foreign, "x", 0)
    chunks = foreign / "x" if first.parent.name == "x" else first.parent
    chunks.rename(foreign.parent / "elsewhere")
    chunks.symlink_to(foreign.parent / "elsewhere")
    assert read(foreign) == list(range(1, 13))
    (foreign.parent / "elsewhere" / chunk(foreign, "x", 1).name).unlink()
    refused(foreign, r"'x' .* must have 3 chunks.*: (c/)?1 is missing")


def test_a_chunk_that_goes_missing_during_an_epoch_is_named(foreign):
    source = ZarrSource(foreign, batch_size=4)
    chunk(foreign, "x", 2).unlink()
    with pytest.raises(ValueError, match=r"rows 0 to 11 of array 'x' .*chunk x/(c/)?2 is missing"):
        list(source)


def test_chunks_left_out_within_a_shard_are_fill_values(tmp_path):
    group = zarr.open_group(tmp_path / "data", mode="w")
    values = np.array([0, 0, 1, 2, 3, 4, 0, 0])
    group.create_array("x", data=values, chunks=(2,), shards=(4,), fill_value=0)
    assert read(tmp_path / "data") == values.tolist()


def test_missing_chunks_of_another_store_are_named_when_read(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}"
    group = zarr.open_group(url, mode="w")
    group.create_array("x", data=np.arange(1, 13), chunks=(4,), fill_value=0)
    assert read(url) == list(range(1, 13))
    memory.rm(f"/{tmp_path.name}/x/c/0")
    refused(url, "chunk x/c/0 is missing")
    memory.rm(f"/{tmp_path.name}/x/c/2")
    refused(url, "must have 3 chunks: c/2 is missing")
    assert read(url, fill_missing_chunks=True) == [0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"3", b"{}", b"\xff", b"[" * 100_000, b'{"shape": 1e999}'],
    ids=["gone", "empty", "cut", "list", "number", "nothing", "no text", "nested", "infinite"],
)
@pytest.mark.parametrize("which", ["x", "y"])
def test_an_array_whose_description_is_damaged_is_named(foreign, content, which):
    file = description(foreign, which)
    file.unlink() if content is None else file.write_bytes(content)
    refused(foreign, rf"{which}/{file.name} in .* cannot be used")


@pytest.mark.parametrize("content", [None, b"{}", b'{"node_type": "group", "zarr_format": 3}'],
                         ids=["gone", "nothing", "a group's"])  # fmt: skip
def test_a_packed_array_does_not_vanish(packed, content):
    file = packed / "text/zarr.json"
    file.unlink() if content is None else file.write_bytes(content)
    refused(packed, r"text/zarr\.json in .* cannot be used")
    shutil.rmtree(packed / "text")
    refused(packed, r"text/zarr\.json in .* is missing")


def test_a_packed_array_is_described_as_it_was(packed):
    """Without its codec no checksum would be compared."""
    file = packed / "x/zarr.json"
    codecs = json.loads(file.read_text())["codecs"]
    assert codecs[-1]["name"] == "crc32c"
    edit(file, codecs=codecs[:-1])
    refused(packed, r"x/zarr\.json in .* is not what was written")


@pytest.mark.parametrize("name", COLUMNS)
def test_packed_chunks_that_change_places_are_named(packed, name):
    assert read(packed) == list(range(12))
    one, other = chunk(packed, name, 0), chunk(packed, name, 2)
    was = one.read_bytes()
    one.write_bytes(other.read_bytes())
    refused(packed, rf"'{name}' .*not the chunk that was written there")
    other.write_bytes(was)
    refused(packed, rf"'{name}' .*not the chunk that was written there")


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("digest"),
        lambda kept: kept.pop("arrays"),
        lambda kept: kept["arrays"].pop("x"),
        lambda kept: kept["arrays"]["x"].update(crcs=""),
        lambda kept: kept.update(rows=-1),
    ],
    ids=["digest", "arrays", "array", "checksums", "rows"],
)
def test_a_record_of_packed_arrays_that_changed_is_named(packed, change):
    group = json.loads((packed / "zarr.json").read_text())
    change(group["attributes"]["jest_loader"])
    (packed / "zarr.json").write_text(json.dumps(group))
    refused(packed, r"zarr\.json in .* its attribute jest_loader")


@pytest.mark.parametrize("value", [5, [], "x", {"arrays": 1, "digest": 2}], ids=str)
def test_a_record_that_is_none_is_named(foreign, value):
    zarr.open_group(foreign, mode="a").attrs["jest_loader"] = value
    refused(foreign, r"its attribute jest_loader")


def test_what_earlier_releases_packed_is_read(packed):
    content = json.loads((packed / "zarr.json").read_text())["attributes"]["jest_loader"]
    new = ZarrSource(packed, batch_size=4)
    zarr.open_group(packed, mode="a").attrs["jest_loader"] = {
        "rows": content["rows"], "content": content["content"],
    }  # fmt: skip
    old = ZarrSource(packed, batch_size=4)
    assert old.fingerprint() == new.fingerprint()
    assert read(packed) == list(range(12))
    chunk(packed, "x", 1).unlink()
    refused(packed, "c/1 is missing", fill_missing_chunks=True)


def test_files_that_never_end_are_not_opened(foreign):
    group = description(foreign, "y").name.replace("zarray", "zgroup")
    for file in (chunk(foreign, "x", 0), description(foreign, "y"), foreign / group):
        was = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        refused(foreign, "no regular file")
        file.unlink()
        file.symlink_to("/dev/zero")
        refused(foreign, "no regular file")
        file.unlink()
        file.write_bytes(was)


@pytest.mark.parametrize("path", [None, 3], ids=repr)
def test_a_path_of_another_type_is_refused_in_a_sentence(path):
    with pytest.raises(ValueError, match=f"path must be a folder or a URL, got {path}; give it"):
        ZarrSource(path, batch_size=4)


def test_names_are_shown_without_control_codes(tmp_path):
    group = zarr.open_group(tmp_path / "data", mode="w")
    group.create_array("x\x1b[2J", data=np.ones(3), chunks=(3,))
    group.create_array("y\x1b[2J", data=np.ones(4), chunks=(4,))
    refused(tmp_path / "data", r"same number of rows")
    refused(tmp_path / "data", r"columns must be some of", columns=["z"])
    file = tmp_path / "data/x\x1b[2J/zarr.json"
    file.write_text("{")
    refused(tmp_path / "data", r"cannot be used")
    file.unlink()
    refused(tmp_path / "data", r"cannot be used")
