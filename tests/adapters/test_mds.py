import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jest_loader import RaggedBytes
from jest_loader.adapters.mds import MdsSource, rows, shard_files
from jest_loader.batch import concat, num_examples, split
from jest_loader.testing.conformance import check_source

Folder = Callable[..., Path]
Check = Callable[[dict[str, Any]], list[int]]


def listing(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small shards be read as large ones are."""
    monkeypatch.setattr(shard_files, "_LEAST_FILE_BYTES", 0)
    monkeypatch.setattr(rows, "_BEGIN_BYTES", 0)


@pytest.mark.parametrize("compression", [None, "zstd", "gz", "br:3"])
def test_reads_what_streaming_writes_and_leaves_the_folder_alone(
    mds_folder: Folder, check_batch: Check, compression: str | None
) -> None:
    folder = mds_folder(compression=compression)
    before = listing(folder)
    assert len(before) > 5
    for shuffle in (True, False):
        source = MdsSource(folder, batch_size=10, shuffle=shuffle, drop_last=False)
        numbers = [number for batch in source for number in check_batch(batch)]
        assert sorted(numbers) == list(range(103))
        assert (numbers == list(range(103))) is not shuffle
    assert listing(folder) == before


def test_agrees_with_streamings_own_reader(mds_folder: Folder) -> None:
    from streaming.base.format import reader_from_json

    folder = mds_folder(image="bytes")
    shards = json.loads((folder / "index.json").read_text())["shards"]
    own = [
        sample for info in shards for sample in map(dict, reader_from_json(str(folder), None, info))
    ]
    (batch,) = MdsSource(folder, batch_size=103, shuffle=False)
    for name in ("number", "weight", "caption", "image"):
        assert list(batch[name]) == [sample[name] for sample in own]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_source_conforms(mds_folder: Folder, shuffle: bool) -> None:
    folder = mds_folder()
    options: Any = {"batch_size": 12, "shuffle": shuffle, "drop_last": shuffle}
    check_source(lambda: MdsSource(folder, **options), id_column="number", shuffles=shuffle)


def test_every_other_encoding_is_decoded_by_streaming(tmp_path: Path) -> None:
    from streaming import MDSWriter

    rows: list[dict[str, Any]] = [
        {
            "json": {"a": [number]} if number else None,
            "grown": np.arange(number + 1, dtype=np.int16),
            "typed": np.ones((number % 2 + 1, 2), np.float32),
            "text_int": 10**30 + number,
            "text_decimal": Decimal("0.1") + number,
            "raw": bytes([number]),
            "small": number,
            "double": number / 8,
        }
        for number in range(20)
    ]
    columns = {
        "json": "json",
        "grown": "ndarray",
        "typed": "ndarray:float32",
        "text_int": "str_int",
        "text_decimal": "str_decimal",
        "raw": "bytes",
        "small": "uint8",
        "double": "float64",
    }
    with MDSWriter(columns=columns, out=str(tmp_path / "a"), size_limit=700) as writer:
        for row in rows:
            writer.write(row)
    source = MdsSource(tmp_path / "a", batch_size=6, shuffle=False, drop_last=False)
    batch = concat(list(source))
    for name in ("json", "text_int", "text_decimal"):
        assert batch[name].dtype == object
        assert batch[name].tolist() == [row[name] for row in rows]
    for name in ("grown", "typed"):
        for found, row in zip(batch[name], rows, strict=True):
            np.testing.assert_array_equal(found, row[name])
    assert batch["small"].dtype == np.uint8
    assert batch["double"].tolist() == [row["double"] for row in rows]
    assert [num_examples(part) for part in split(batch, 8)] == [8, 8, 4]


def test_columns_of_fixed_size_only(tmp_path: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(columns={"x": "int16", "y": "int"}, out=str(tmp_path / "a")) as writer:
        for number in range(5):
            writer.write({"x": -number, "y": number})
    (batch,) = MdsSource(tmp_path / "a", batch_size=5, shuffle=False)
    assert batch["x"].tolist() == [0, -1, -2, -3, -4]


def test_chosen_columns_and_another_name_for_ids(mds_folder: Folder) -> None:
    folder = mds_folder()
    source = MdsSource(folder, batch_size=10, columns=["number", "caption"], id_column="row")
    batch = next(iter(source))
    assert set(batch) == {"number", "caption", "row"}
    assert batch["row"].tolist() == batch["number"].tolist()
    without = MdsSource(folder, batch_size=10, columns=["caption"], id_column=None)
    assert list(next(iter(without))) == ["caption"]


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("hashes", [[], ["sha1", "xxh64"], ["md5"]])
def test_damaged_shards_are_errors_that_name_them(
    mds_folder: Folder, compression: str | None, hashes: list[str]
) -> None:
    folder = mds_folder(compression=compression, hashes=hashes)
    shard = sorted(folder.glob("shard.00002.*"))[0]
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damages: list[bytes] = [whole[:-3], b"", whole + b"x"]
    if hashes:
        damages.append(bytes(flipped))
    for damage in damages:
        shard.write_bytes(damage)
        reason = "bytes" if len(damage) != len(whole) else hashes[-1]
        with pytest.raises(
            ValueError, match=rf"{shard.name} must have .*{reason}.* fetch it again"
        ):
            list(MdsSource(folder, batch_size=10))
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        list(MdsSource(folder, batch_size=10))


def test_a_hash_is_checked_once_and_again_if_the_file_has_changed(
    mds_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    check_hash = shard_files._check_hash

    def check(*args: Any) -> None:
        hashed.append(args)
        check_hash(*args)

    monkeypatch.setattr(shard_files, "_check_hash", check)
    for compression, per_shard in ((None, 1), ("zstd", 2)):
        folder = mds_folder(f"{compression}", compression=compression)
        files = sorted(path for path in folder.iterdir() if path.name.startswith("shard"))
        hashed.clear()
        source = MdsSource(folder, batch_size=10, drop_last=False)
        list(source)
        assert len(hashed) == per_shard * len(files)
        list(source)
        assert len(hashed) == per_shard * len(files)
        # Bytes altered in place, and the time of the change hidden.
        before = files[1].stat()
        content = bytearray(files[1].read_bytes())
        content[len(content) // 2] ^= 1
        with files[1].open("r+b") as file:
            file.write(content)
        os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ValueError, match=rf"{files[1].name} must have the xxh64"):
            list(source)


@pytest.mark.parametrize("replace", [True, False])
def test_replacing_or_deleting_a_shard_in_use_does_no_harm(
    mds_folder: Folder, check_batch: Check, replace: bool, in_files: None
) -> None:
    folder = mds_folder()
    source = MdsSource(folder, batch_size=10, window_rows=1000, drop_last=False)
    batches = iter(source)
    first = next(batches)
    for shard in folder.glob("shard.*"):
        if replace:
            (folder / "new").write_bytes(b"other")
            (folder / "new").replace(shard)
        else:
            shard.unlink()
    numbers = [*check_batch(first), *(n for batch in batches for n in check_batch(batch))]
    assert sorted(numbers) == list(range(103))
    with pytest.raises((ValueError, FileNotFoundError), match=r"shard\.0000"):
        list(source)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("begin_bytes", [0, 20, 40, 1000])
def test_rows_of_files_are_those_of_memory(
    mds_folder: Folder, check_batch: Check, monkeypatch: pytest.MonkeyPatch, begin_bytes: int
) -> None:
    monkeypatch.setattr(rows, "_BEGIN_BYTES", begin_bytes)
    folder = mds_folder()
    batches = list(MdsSource(folder, batch_size=10, window_rows=50, drop_last=False))
    assert sorted(n for batch in batches for n in check_batch(batch)) == list(range(103))
    for columns in (["image"], ["caption", "weight"], ["icon"]):
        chosen = MdsSource(folder, batch_size=10, window_rows=50, drop_last=False, columns=columns)
        for batch, same in zip(chosen, batches, strict=True):
            assert set(batch) == {*columns, "sample_id"}
            assert all(list(map(str, batch[name])) == list(map(str, same[name])) for name in batch)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_images_hold_no_memory_but_their_own(
    mds_folder: Folder, compression: str | None, in_files: None
) -> None:
    folder = mds_folder(compression=compression)
    for batch in MdsSource(folder, batch_size=10, window_rows=50):
        assert isinstance(batch["image"], RaggedBytes)
        buffers = batch["image"]._buffers
        held_bytes = sum(len(buffer) for buffer in buffers if isinstance(buffer, memoryview))
        assert held_bytes == (0 if compression is None else batch["image"].nbytes)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_small_shards_keep_no_file_open_and_large_ones_until_dropped(
    mds_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_open() -> int:
        opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return sum("shard." in path for path in opened)

    folder = mds_folder(size_limit=300)

    batches = iter(MdsSource(folder, batch_size=10, window_rows=1000))
    next(batches)
    assert num_open() == 0
    monkeypatch.setattr(shard_files, "_LEAST_FILE_BYTES", 0)
    batches = iter(MdsSource(folder, batch_size=10, window_rows=1000))
    next(batches)
    assert num_open() > 40
    del batches
    assert num_open() == 0


def test_a_value_that_cannot_be_decoded_names_its_shard(tmp_path: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(columns={"text": "str"}, out=str(tmp_path / "a"), size_limit=200) as writer:
        for number in range(60):
            writer.write({"text": f"number {number}"})
    shards = sorted((tmp_path / "a").glob("shard.*"))
    damaged = shards[3].read_bytes().replace(b"number", b"n\xffmber", 1)
    shards[3].write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{shards[3].name} cannot be decoded.*utf-8"):
        list(MdsSource(tmp_path / "a", batch_size=5, window_rows=1000))


def test_without_hashes_a_wrong_table_of_rows_is_still_found(mds_folder: Folder) -> None:
    folder = mds_folder(hashes=[])
    shard = folder / "shard.00001.mds"
    whole = shard.read_bytes()
    table = np.frombuffer(whole, np.uint32, 10)
    for word, value in [(0, table[0] + 1), (2, table[2] + 4), (3, 2**31), (4, 0)]:
        damaged = np.frombuffer(whole[:40], np.uint32).copy()
        damaged[word] = value
        shard.write_bytes(damaged.tobytes() + whole[40:])
        with pytest.raises(ValueError, match=r"shard.00001.mds cannot be decoded"):
            list(MdsSource(folder, batch_size=10))


def test_without_hashes_a_compressed_shard_that_cannot_be_unpacked(mds_folder: Folder) -> None:
    folder = mds_folder(hashes=[], compression="zstd")
    shard = folder / "shard.00001.mds.zstd"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ValueError, match=r"shard.00001.mds.zstd cannot be decompressed"):
        list(MdsSource(folder, batch_size=10))


def test_an_unpacked_shard_beside_the_packed_one_is_used_and_checked(
    mds_folder: Folder, check_batch: Check
) -> None:
    """``StreamingDataset`` leaves such folders behind."""
    from streaming.base.compression import decompress

    folder = mds_folder(compression="zstd")
    for packed in folder.glob("*.zstd"):
        (folder / packed.stem).write_bytes(decompress("zstd", packed.read_bytes()))
        packed.unlink()
    for batch in MdsSource(folder, batch_size=10):
        check_batch(batch)
    (folder / "shard.00000.mds").write_bytes(b"")
    with pytest.raises(ValueError, match=r"shard.00000.mds must have"):
        list(MdsSource(folder, batch_size=10))


class RunsOnLoad:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_pickles_are_refused_and_do_not_run(tmp_path: Path) -> None:
    from streaming import MDSWriter

    trace = tmp_path / "trace"
    folder = tmp_path / "a"
    with MDSWriter(columns={"x": "pkl", "y": "int"}, out=str(folder)) as writer:
        writer.write({"x": RunsOnLoad(str(trace)), "y": 1})
    for columns in (None, ["x"]):
        with pytest.raises(ValueError, match=r"\['x'\].*allow_pickle=True"):
            MdsSource(folder, batch_size=1, columns=columns)
    (batch,) = MdsSource(folder, batch_size=1, columns=["y"])
    assert batch["y"].tolist() == [1]
    assert not trace.exists()
    (batch,) = MdsSource(folder, batch_size=1, allow_pickle=True)
    assert trace.exists()
    batch["x"][0].close()


def test_folders_that_are_no_data_set(tmp_path: Path, mds_folder: Folder) -> None:
    for path in (tmp_path / "nowhere", tmp_path, "s3://bucket/data"):
        with pytest.raises(ValueError, match=r"local folder"):
            MdsSource(path, batch_size=1)
    folder = mds_folder(rows=4)
    index = json.loads((folder / "index.json").read_text())
    shard = index["shards"][0]
    other = shard | {"raw_data": shard["raw_data"] | {"basename": "other.mds"}}
    bad: list[tuple[str, str]] = [
        ("{", "is not an MDS index"),
        ("[]", "is not an MDS index"),
        (json.dumps({"version": 2, "shards": []}), "at least one row"),
        (json.dumps(index | {"version": 3}), "version must be 2, got 3"),
        (json.dumps(index | {"shards": [shard | {"format": "csv"}]}), "csv"),
        (json.dumps(index | {"shards": [shard | {"version": 1}]}), "is not an MDS index"),
        (json.dumps(index | {"shards": [shard | {"novel": 1}]}), "is not an MDS index"),
        (
            json.dumps(
                index
                | {"shards": [shard | {"raw_data": shard["raw_data"] | {"basename": "../a.mds"}}]}
            ),
            "inside its folder",
        ),
        (
            json.dumps(index | {"shards": [shard, other | {"column_encodings": ["str"] * 5}]}),
            "same columns",
        ),
    ]
    for text, message in bad:
        (folder / "index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            MdsSource(folder, batch_size=1)


def test_columns_that_are_not_there(mds_folder: Folder) -> None:
    folder = mds_folder(rows=20)
    for columns in (["picture"], []):
        with pytest.raises(ValueError, match=r"columns must be some of .*'caption'"):
            MdsSource(folder, batch_size=2, columns=columns)
    with pytest.raises(ValueError, match=r"use \['caption'\]"):
        MdsSource(folder, batch_size=2, columns="caption")
    with pytest.raises(ValueError, match="id_column"):
        MdsSource(folder, batch_size=2, id_column="caption")


def test_another_data_set_refuses_the_state(mds_folder: Folder) -> None:
    state = MdsSource(mds_folder("a", rows=40), batch_size=2).state_dict()
    with pytest.raises(ValueError, match="same dataset"):
        MdsSource(mds_folder("b", rows=41), batch_size=2).load_state_dict(state)
    MdsSource(mds_folder("c", rows=40), batch_size=2).load_state_dict(state)


def test_importing_the_adapter_does_not_import_streaming() -> None:
    program = "import sys, jest_loader.adapters.mds; sys.exit('streaming' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_library_is_named_with_the_extra(
    mds_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mds_folder(rows=4)
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jest-loader\[mds\]'"):
        MdsSource(folder, batch_size=1)
