import functools
import http.server
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROWS = 103


def row(number: int) -> dict[str, Any]:
    """A row with one value of each kind that is read in columns, all told by its number."""
    return {
        "number": number,
        "weight": np.float32(number / 2),
        "icon": np.full((4, 3), number, np.uint8),
        "caption": "ä" * (number % 5),
        "image": b"\xff\0" * (number % 4),
    }


@pytest.fixture
def mds_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the rows as MDS shards of some 15 rows with streaming's own writer."""
    from streaming import MDSWriter

    def write(name: str = "data", rows: int = ROWS, image: str = "jpeg", **options: Any) -> Path:
        columns = {
            "number": "int",
            "weight": "float32",
            "icon": "ndarray:uint8:4,3",
            "caption": "str",
            "image": image,
        }
        options = {"size_limit": 1200, "hashes": ["sha1", "xxh64"]} | options
        with MDSWriter(columns=columns, out=str(tmp_path / name), **options) as writer:
            for number in range(rows):
                writer.write(row(number))
        return tmp_path / name

    return write


@pytest.fixture
def zarr_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the rows as a Zarr group with zarr's own functions."""
    import zarr
    import zarr.errors

    def write(
        name: str = "data",
        rows: int = ROWS,
        zarr_format: int = 3,
        chunks: int = 8,
        shards: int | None = None,
    ) -> Path:
        group = zarr.open_group(tmp_path / name, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
        table = [row(number) for number in range(rows)]
        for column in ("number", "weight", "icon"):
            values = np.stack([entry[column] for entry in table])
            shape = values.shape[1:]
            group.create_array(
                column,
                data=values,
                chunks=(chunks, *shape),
                shards=shards and (shards, *shape),
            )
        captions = group.create_array("caption", shape=(rows,), dtype="string", chunks=(chunks,))
        captions[:] = np.array([entry["caption"] for entry in table], dtype=object)
        if zarr_format == 3:
            with warnings.catch_warnings():  # there is no specification for bytes yet
                warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
                images = group.create_array(
                    "image", shape=(rows,), dtype="variable_length_bytes", chunks=(chunks,)
                )
            values = np.empty(rows, dtype=object)
            values[:] = [entry["image"] for entry in table]
            images[:] = values
        return tmp_path / name

    return write


@pytest.fixture
def check_batch() -> Callable[[dict[str, Any]], list[int]]:
    """Compares a batch with what was written and returns its row numbers."""

    def check(batch: dict[str, Any]) -> list[int]:
        numbers: list[int] = batch["number"].tolist()
        assert batch["sample_id"].dtype == np.int64
        assert batch["sample_id"].tolist() == numbers
        assert batch["weight"].dtype == np.float32
        assert batch["icon"].dtype == np.uint8
        for name, values in batch.items():
            if name != "sample_id":
                expected = [row(number)[name] for number in numbers]
                if isinstance(values, np.ndarray):
                    np.testing.assert_array_equal(values, np.stack(expected))
                else:
                    assert values == expected
        return numbers

    return check


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves folders over HTTP on loopback; returns their URLs."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(_Quiet, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
