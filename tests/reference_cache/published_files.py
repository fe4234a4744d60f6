"""Published embeddings in the layouts that others use, written with NumPy and pyarrow."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyarrow import parquet

WIDTH = 16


def pairs(size, *, seed=0, width=WIDTH):
    """Float32 [size, width] of images and texts, of unit norm, more alike within a pair."""
    generator = np.random.default_rng(seed)
    image = generator.standard_normal((size, width))
    text = image + generator.standard_normal((size, width))
    return tuple(
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype("f4") for side in (image, text)
    )


def uids(size):
    return [f"{row * 7919 % 100003:032x}" for row in range(size)]


def as_bf16(values):
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def write_table(path, ids, column="uid"):
    parquet.write_table(pa.table({column: ids, "caption": ["a"] * len(ids)}), path)


def write_retrieval(folder, image, text, ids, edges, *, flat=False, digits=0):
    """As clip-retrieval does: numbered parts of both sides and of their metadata."""
    for number, (first, end) in enumerate(pairwise(edges)):
        named = f"{number:0{digits}}"
        for name, rows in (("img_emb", image), ("text_emb", text)):
            place = folder if flat else folder / name
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}_{named}.npy", rows[first:end])
        place = folder if flat else folder / "metadata"
        place.mkdir(exist_ok=True)
        write_table(place / f"metadata_{named}.parquet", ids[first:end])


def write_datacomp(folder, image, text, ids, edges, *, save=np.savez):
    """As DataComp does: an .npz of named arrays beside each parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (first, end) in enumerate(pairwise(edges)):
        half = slice(0, image.shape[1] // 2)
        save(
            folder / f"shard-{number}.npz",
            l14_img=image[first:end], l14_txt=text[first:end],
            b32_img=image[first:end, half], b32_txt=text[first:end, half],
        )  # fmt: skip
        write_table(folder / f"shard-{number}.parquet", ids[first:end])


def batches(ids, *, size=32, column="uid", first=0):
    """A source of the examples with these ids, numbered from ``first``."""
    return [
        {"sample_id": np.arange(first + at, first + min(at + size, len(ids))),
         column: ids[at : at + size]}
        for at in range(0, len(ids), size)
    ]  # fmt: skip
