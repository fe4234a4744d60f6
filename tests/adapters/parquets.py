"""Parquet files for tests, as pyarrow writes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet


def image(number: int) -> bytes:
    return b"\xff\xd8%d" % number * (number % 4)


def table(numbers) -> pa.Table:
    """Rows with a value of each kind that is read, and one that is not, told by their number."""
    numbers = [*numbers]
    embeddings = np.array([[n, n / 2] for n in numbers], np.float32)
    return pa.table({
        "image": pa.array([{"bytes": image(n), "path": f"{n}.jpg"} for n in numbers]),
        "raw": pa.array([image(n + 1) for n in numbers], pa.large_binary()),
        "text": [f"ä {n}" for n in numbers],
        "long": pa.array([f"long {n}" for n in numbers], pa.large_string()),
        "source": pa.array([f"of {n % 3}" for n in numbers]).dictionary_encode(),
        "n": numbers,
        "small": pa.array([n % 100 for n in numbers], pa.uint8()),
        "half": pa.array(np.array(numbers, np.float16)),
        "good": [n % 3 == 0 for n in numbers],
        "emb": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), 2),
        "tags": [["a"] * (n % 2) for n in numbers],
    })  # fmt: skip


def write_files(folder: Path, num_files: int = 3, rows: int = 11, **options) -> Path:
    """Files of some rows each in several row groups, numbered through."""
    folder.mkdir(exist_ok=True)
    for number in range(num_files):
        path = folder / f"train-{number:05d}-of-{num_files:05d}.parquet"
        numbers = range(number * rows, (number + 1) * rows)
        parquet.write_table(table(numbers), path, **{"row_group_size": 4} | options)
    return folder
