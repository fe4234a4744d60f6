"""The data sets that ``bench.reading`` reads: the same rows in each format, of random bytes.

A row is what a run with cached reference embeddings reads: an encoded image of 22 KB on average, a
caption, and two embeddings of 512 fp16 numbers. Nothing decodes the images, so any bytes will do.
"""

import io
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.pack import write_mds

COLUMNS = {
    "jpg": "bytes",
    "caption": "str",
    "image_embedding": "ndarray:float16:512",
    "text_embedding": "ndarray:float16:512",
}
ROWS_PER_TAR = 2500
PIXELS = (64, 64, 3)


def rows(num_rows: int) -> Iterator[dict[str, Any]]:
    """Rows, the same each time."""
    random = np.random.default_rng(0)
    pool = random.bytes(1 << 24)
    for number in range(num_rows):
        size = int(random.integers(14_000, 30_000))
        start = int(random.integers(len(pool) - size))
        image, text = random.standard_normal((2, 512), dtype=np.float32).astype(np.float16)
        yield {
            "jpg": pool[start : start + size],
            "caption": f"a photo of {number} flowers in a field, seen from above",
            "image_embedding": image,
            "text_embedding": text,
        }


def make_mds(folder: Path, num_rows: int) -> None:
    """Shards of 64 MiB with xxh64 hashes, as ``jest-loader pack`` makes them."""
    write_mds(folder, COLUMNS, rows(num_rows))


def make_tars(folder: Path, num_rows: int, rows_per_tar: int = ROWS_PER_TAR) -> list[str]:
    """WebDataset tars."""
    folder.mkdir()
    numbered = enumerate(rows(num_rows))
    paths = []
    for first in range(0, num_rows, rows_per_tar):
        paths.append(str(folder / f"{first // rows_per_tar:05d}.tar"))
        with tarfile.open(paths[-1], "w") as tar:
            for number, row in islice(numbered, rows_per_tar):
                add_row(tar, f"{number:08d}", row)
    return paths


def add_row(tar: tarfile.TarFile, key: str, row: dict[str, Any]) -> None:
    """A row as files of one name and different extensions."""
    parts = {
        "jpg": row["jpg"],
        "txt": row["caption"].encode(),
        "image.npy": npy_of(row["image_embedding"]),
        "text.npy": npy_of(row["text_embedding"]),
    }
    for extension, content in parts.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def npy_of(array: NDArray[Any]) -> bytes:
    """An array as an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def make_litdata(folder: Path, num_rows: int) -> None:
    """Chunks of 64 MiB for litData."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=1 << 26)
    for number, row in enumerate(rows(num_rows)):
        writer[number] = row
    writer.done()
    writer.merge(1)


def make_zarr(folder: Path, num_rows: int) -> dict[str, int]:
    """Groups of pixels or of encoded images; the rows of a chunk (or shard) of each."""
    import zarr

    random = np.random.default_rng(0)
    root = zarr.open_group(folder, mode="w")
    pixels = random.integers(256, size=(num_rows, *PIXELS), dtype=np.uint8)
    layouts = {"pixels, chunks of 256": (256, None), "pixels, 32 in shards of 1024": (32, 1024)}
    for name, (chunk_rows, shard_rows) in layouts.items():
        root.create_group(name).create_array(
            "pixels",
            data=pixels,
            chunks=(chunk_rows, *PIXELS),
            shards=None if shard_rows is None else (shard_rows, *PIXELS),
        )
    name = "encoded images, chunks of 256"
    images = root.create_group(name).create_array(
        "jpg", shape=(num_rows,), dtype="variable_length_bytes", chunks=(256,)
    )
    values = np.empty(num_rows, dtype=object)
    values[:] = [row["jpg"] for row in rows(num_rows)]
    for start in range(0, num_rows, 256):
        images[start : start + 256] = values[start : start + 256]
    return {layout: shard or chunk for layout, (chunk, shard) in layouts.items()} | {name: 256}
