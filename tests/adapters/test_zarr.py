import functools
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_zarr
from jest_loader.testing.conformance import check_source

Folder = Callable[..., Path]
Check = Callable[[dict[str, Any]], list[int]]


@pytest.mark.parametrize(
    "options",
    [{}, {"zarr_format": 2}, {"chunks": 100}, {"chunks": 1}, {"shards": 32}],
    ids=str,
)
def test_reads_what_zarr_writes(
    zarr_folder: Folder, check_batch: Check, options: dict[str, Any]
) -> None:
    folder = zarr_folder(**options)
    for shuffle in (True, False):
        source = ZarrSource(
            folder, batch_size=10, shuffle=shuffle, drop_last=False, fill_missing_chunks=True
        )
        numbers = [number for batch in source for number in check_batch(batch)]
        assert sorted(numbers) == list(range(103))
        assert (numbers == list(range(103))) is not shuffle


def test_blocks_follow_the_widest_column(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "a", mode="w")
    wide = np.ones((1000, 50), np.float32)
    group.create_array("wide", data=wide, chunks=(100, 50))
    group.create_array("narrow", data=np.arange(1000), chunks=(1000,))
    slices = []
    source = ZarrSource(tmp_path / "a", batch_size=50)
    reader = source._plan.reader
    read = reader.read
    reader.read = lambda blocks, scratch: slices.extend(blocks) or read(blocks, scratch)  # type: ignore[method-assign,func-returns-value]
    list(source)
    assert sorted(slices) == list(range(10))
    assert reader.block_rows.tolist() == [100] * 10


def test_batches_keep_their_rows_when_later_windows_are_read(
    zarr_folder: Folder, check_batch: Check
) -> None:
    """Windows are read into the same memory."""
    source = ZarrSource(zarr_folder(), batch_size=10, window_rows=20, drop_last=False)
    first, second = iter(source), iter(source)
    batches = [batch for pair in zip(first, second, strict=True) for batch in pair]
    numbers = [number for batch in batches for number in check_batch(batch)]
    assert sorted(numbers) == sorted([*range(103)] * 2)


def test_missing_chunks_read_as_fill_values_if_they_are_meant(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=2)
    array = group.create_array(
        "x", shape=(300, 2), chunks=(100, 2), dtype=">i4", fill_value=7, order="F"
    )
    array[100:200] = 1
    for seed in range(3):
        source = ZarrSource(
            tmp_path / "a", batch_size=50, window_rows=100, seed=seed, fill_missing_chunks=True
        )
        for batch in source:
            written = (batch["sample_id"] // 100 == 1)[:, None]
            np.testing.assert_array_equal(batch["x"], np.where(written, 1, [[7, 7]]))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_source_conforms(zarr_folder: Folder, shuffle: bool) -> None:
    folder = zarr_folder()
    options: Any = {"batch_size": 12, "shuffle": shuffle, "drop_last": shuffle}
    check_source(lambda: ZarrSource(folder, **options), id_column="number", shuffles=shuffle)


def test_text_and_bytes_of_fixed_length(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=2)
    group.create_array("text", data=np.array(["ä", "bcd"]), chunks=(2,))
    group.create_array("bytes", data=np.array([b"a", b"bcd"]), chunks=(2,))
    (batch,) = ZarrSource(tmp_path / "a", batch_size=2, shuffle=False)
    assert batch["text"] == ["ä", "bcd"]
    assert batch["bytes"] == [b"a", b"bcd"]


def test_urls(zarr_folder: Folder, check_batch: Check) -> None:
    for batch in ZarrSource(zarr_folder().as_uri(), batch_size=10):
        check_batch(batch)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def list_directory(self, path: str | os.PathLike[str]) -> None:  # type: ignore[override]
        self.send_error(404)


@pytest.fixture
def served(zarr_folder: Folder, tmp_path: Path) -> Iterator[str]:
    zarr_folder()
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_over_http_columns_must_be_named(served: str, tmp_path: Path) -> None:
    columns = ["number", "caption"]
    (batch,) = ZarrSource(f"{served}/data", batch_size=103, shuffle=False, columns=columns)
    assert batch["number"].tolist() == list(range(103))
    with pytest.raises(ValueError, match="name the columns"):
        ZarrSource(f"{served}/data", batch_size=10)
    with pytest.raises(ValueError, match="name the columns"):
        ZarrSource(f"{served}/data", batch_size=10, columns=["picture"])
    write_zarr(tmp_path / "packed", {"x": "int"}, [{"x": 1}])
    (batch,) = ZarrSource(f"{served}/packed", batch_size=1)
    assert batch["x"].tolist() == [1]


def test_a_server_that_lists_folders(
    zarr_folder: Folder, check_batch: Check, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    zarr_folder()
    write_zarr(tmp_path / "packed", {"x": "int"}, [{"x": 1}])
    url = serve(tmp_path)
    for columns in (None, ["number", "weight", "icon"]):
        (batch,) = ZarrSource(
            f"{url}/data", batch_size=103, columns=columns, fill_missing_chunks=True
        )
        assert len(check_batch(batch)) == 103
    (batch,) = ZarrSource(f"{url}/packed", batch_size=1)
    assert sorted(batch) == ["sample_id", "x"]


def test_damaged_chunks_are_errors_that_name_them(tmp_path: Path) -> None:
    columns = {"x": "int", "text": "str"}
    rows = [{"x": number, "text": "t" * number} for number in range(200)]
    for compression in (None, "zstd"):
        folder = tmp_path / f"{compression}"
        write_zarr(folder, columns, rows, chunk_rows=64, compression=compression)  # type: ignore[arg-type]
        for name in columns:
            chunk = folder / name / "c/1"
            whole = chunk.read_bytes()
            flipped = bytearray(whole)
            flipped[len(whole) // 2] ^= 1
            for damage in (bytes(flipped), whole[:-3], b""):
                chunk.write_bytes(damage)
                with pytest.raises(ValueError, match=rf"rows 64 to 127 of array '{name}'"):
                    list(ZarrSource(folder, batch_size=10))
            chunk.unlink()
            with pytest.raises(ValueError, match=rf"'{name}'.*must have 4 chunks, got 3"):
                ZarrSource(folder, batch_size=10)
            chunk.write_bytes(whole)
        assert len(list(ZarrSource(folder, batch_size=10))) == 20


def test_pickles_are_refused_and_do_not_run(tmp_path: Path, zarr_folder: Folder) -> None:
    """zarr itself refuses the codec; this sees to it that it stays so."""
    folder = zarr_folder(zarr_format=2)
    trace = tmp_path / "trace"

    class RunsOnLoad:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(trace), "w")

    (folder / "evil").mkdir()
    metadata = {"zarr_format": 2, "shape": [103], "chunks": [103], "dtype": "|u1", "order": "C"}
    metadata |= {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": 0}
    (folder / "evil/.zarray").write_text(json.dumps(metadata))
    (folder / "evil/0").write_bytes(pickle.dumps(RunsOnLoad()))
    with pytest.raises(ValueError, match="'pickle'"):
        list(ZarrSource(folder, batch_size=10))
    assert not trace.exists()


def test_paths_that_are_no_table(tmp_path: Path, zarr_folder: Folder) -> None:
    import zarr

    folder = zarr_folder()
    for path in (tmp_path / "nowhere", tmp_path, folder / "number", "memory://nothing"):
        with pytest.raises(ValueError, match="path must be a Zarr group"):
            ZarrSource(path, batch_size=1)
    zarr.open_group(tmp_path / "empty", mode="w")
    with pytest.raises(ValueError, match="at least one array"):
        ZarrSource(tmp_path / "empty", batch_size=1)
    group = zarr.open_group(folder, mode="r+")
    group.create_array("odd", data=np.arange(7))
    with pytest.raises(ValueError, match=r"same number of rows.*'odd': 7.*columns="):
        ZarrSource(folder, batch_size=1)
    assert len(ZarrSource(folder, batch_size=103, columns=["number", "icon"])) == 1
    group.create_array("scalar", shape=(), dtype="int32")
    with pytest.raises(ValueError, match=r"'scalar': None"):
        ZarrSource(folder, batch_size=1, columns=["scalar"])
    group.create_array("none", shape=(0,), dtype="int32")
    with pytest.raises(ValueError, match="at least one row"):
        ZarrSource(folder, batch_size=1, columns=["none"])
    for columns in (["picture"], []):
        with pytest.raises(ValueError, match=r"columns must be some of .*'caption'"):
            ZarrSource(folder, batch_size=2, columns=columns)
    with pytest.raises(ValueError, match="id_column"):
        ZarrSource(folder, batch_size=2, columns=["number"], id_column="number")


def test_a_packed_data_set_of_other_content_refuses_the_state(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 1), ("c", 0)):
        write_zarr(tmp_path / name, {"x": "int"}, [{"x": first}, {"x": 2}])
    state = ZarrSource(tmp_path / "a", batch_size=1).state_dict()
    ZarrSource(tmp_path / "c", batch_size=1).load_state_dict(state)
    with pytest.raises(ValueError, match="same dataset"):
        ZarrSource(tmp_path / "b", batch_size=1).load_state_dict(state)
    shutil.rmtree(tmp_path / "a")


def test_importing_the_adapter_does_not_import_zarr() -> None:
    program = "import sys, jest_loader.adapters.zarr; sys.exit('zarr' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
