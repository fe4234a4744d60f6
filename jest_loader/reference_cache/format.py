"""What is in the folder of a reference cache.

    zarr.json             a Zarr v3 group, whose attribute ``jest_loader_cache`` is the manifest
    image/, text/         float16 [rows, width]; or loss/, float32 [rows]
    seen/                 int8 [rows], where it is known: whether the reference was trained on a row
    sample_id/            int64 [rows]
    index/id, index/row   int64 [rows]: the ids in ascending order, and the row of each. Left out
                          where the ids are 0, 1, 2, ... in the order of the rows
    building/             only while the cache is being built

Arrays are uncompressed, so that a chunk file is its rows as they are in memory. Rows that are
missing are NaN. ``zarr.json`` of the group is written last: without it there is no cache.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from math import isfinite, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown, whole
from jest_loader.files import read_regular
from jest_loader.state_digest import has_its_digest

CACHE_VERSION = 5
ATTRIBUTE = "jest_loader_cache"
BUILDING = "building"
FOLDS = "folds.json"
MOST_JSON_BYTES = 1 << 28  # Of a manifest, which has a checksum of each chunk.

Kind = Literal["embeddings", "loss"]


@dataclass(frozen=True)
class ArrayForm:
    """How an array is stored.

    Args:
        dtype: The values' dtype, little-endian.
        row_shape: The shape of a row.
        num_rows: Rows.
        chunk_rows: Rows of a chunk file; the last one is padded to as many.
    """

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    num_rows: int
    chunk_rows: int

    @property
    def num_chunks(self) -> int:
        """Chunk files."""
        return -(-self.num_rows // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of each chunk file."""
        return self.chunk_rows * self.dtype.itemsize * prod(self.row_shape)

    def chunk_path(self, array: Path, number: int) -> Path:
        """The file of a chunk of the array in the folder ``array``."""
        return array.joinpath("c", str(number), *("0" for _ in self.row_shape))


@dataclass(frozen=True)
class Manifest:
    """What a reference cache holds and what it was made from.

    Args:
        version: Version of the format.
        written_by: The release of jest-loader that wrote it.
        kind: Whether it holds embeddings or per-example losses.
        num_rows: Examples, with or without values.
        num_missing: Examples that the reference could not use.
        chunk_rows: Rows of a chunk file.
        width: Width of the embeddings; None for losses.
        num_seen: Examples that the reference was trained on; None where none is known.
        num_known: Examples of which it is known whether it was; None likewise.
        logit_scale: The reference's inverse temperature; None for losses.
        logit_bias: Its logit bias; None for losses and for a softmax model.
        has_index: Whether ids are not simply 0, 1, 2, ...
        identity: What it was made from: ``data``, ``model`` and whatever the builder named.
        checksums: For each array the BLAKE2b of each of its chunk files, 16 bytes in hexadecimal.
    """

    version: int
    written_by: str
    kind: Kind
    num_rows: int
    num_missing: int
    chunk_rows: int
    width: int | None
    num_seen: int | None
    num_known: int | None
    logit_scale: float | None
    logit_bias: float | None
    has_index: bool
    identity: dict[str, str]
    checksums: dict[str, list[str]]

    def value_forms(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and row shape of the arrays of values, by name."""
        return value_forms(self.kind, self.width, knows_seen=self.num_seen is not None)

    def arrays(self) -> dict[str, ArrayForm]:
        """The arrays by name."""
        by_row = ArrayForm(np.dtype("<i8"), (), self.num_rows, self.chunk_rows)
        found = {
            name: ArrayForm(dtype, shape, self.num_rows, self.chunk_rows)
            for name, (dtype, shape) in self.value_forms().items()
        }
        found["sample_id"] = by_row
        if self.has_index:  # In one file, to be searched as one array.
            index = ArrayForm(np.dtype("<i8"), (), self.num_rows, self.num_rows)
            found |= {"index/id": index, "index/row": index}
        return found


def value_forms(
    kind: Kind, width: int | None, *, knows_seen: bool
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and row shape of the arrays of values, by name; the first tells what is missing."""
    forms: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {"loss": (np.dtype("<f4"), ())}
    if kind == "embeddings":
        assert width is not None
        forms = dict.fromkeys(("image", "text"), (np.dtype("<f2"), (width,)))
    return forms | {"seen": (np.dtype("i1"), ())} if knows_seen else forms


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool [rows]: which rows of an array of values are missing. Those are NaN throughout."""
    found: NDArray[np.bool_] = np.isnan(values if values.ndim == 1 else values[:, 0])
    return found


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a whole cache.

    Raises:
        ValueError: if there is none at ``path``, or one that is not whole, damaged or of another
            version.
    """
    folder = Path(path)
    group = folder / "zarr.json"
    if not group.is_file():
        if (folder / BUILDING).is_dir():
            raise ValueError(
                f"the reference cache at {path} must be whole, but its building was stopped or is "
                "under way; build it with the same settings, which goes on where that stopped"
            )
        if (folder / "manifest.json").is_file():
            raise ValueError(_other_version(1, path))
        raise ValueError(f"no reference cache at {path}: zarr.json is missing; build it first")
    try:
        attributes = read_json(group)["attributes"]
    except Exception as error:  # Nested deeply enough, JSON raises RecursionError.
        reason = f"zarr.json cannot be read: {shown(repr(error))}"
        raise ValueError(_damaged(path, reason)) from error
    found = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise ValueError(
            f"a reference cache must say so in its zarr.json, but {path} is another Zarr group; "
            "give the folder that jest_loader.reference_cache.build wrote"
        )
    version = found.get("version")
    if type(version) is not int or version != CACHE_VERSION:
        raise ValueError(_other_version(found.get("version"), path))
    lacking = [field.name for field in fields(Manifest) if field.name not in found]
    if lacking:
        raise ValueError(_damaged(path, f"its manifest lacks {', '.join(lacking)}"))
    if not has_its_digest(found):
        raise ValueError(_damaged(path, "its manifest's digest does not fit"))
    manifest = Manifest(**{field.name: found[field.name] for field in fields(Manifest)})
    try:
        _check_values(manifest)
    except Exception as error:  # Whatever values of other types lead to.
        reason = f"its manifest cannot be: {shown(str(error))}"
        raise ValueError(_damaged(path, reason)) from error
    return manifest


def _check_values(manifest: Manifest) -> None:
    """Raise an error unless the values can be a cache's; nothing is allocated by them."""
    whole("num_rows", manifest.num_rows, 1)
    whole("num_missing", manifest.num_missing, 0, manifest.num_rows)
    whole("chunk_rows", manifest.chunk_rows, 1, manifest.num_rows)
    if manifest.num_seen is not None or manifest.num_known is not None:
        whole("num_seen", manifest.num_seen, 0, whole("num_known", manifest.num_known, 0))
    if manifest.kind not in ("embeddings", "loss"):
        raise ValueError(f"kind is {manifest.kind!r}")
    if manifest.kind == "embeddings":
        whole("width", manifest.width, 1)
        for name in ("logit_scale", "logit_bias"):
            value = getattr(manifest, name)
            if (name, value) != ("logit_bias", None) and not isfinite(value):
                raise ValueError(f"{name} is {value}")
    if not isinstance(manifest.has_index, bool):
        raise ValueError(f"has_index is {manifest.has_index!r}")
    texts = [*manifest.identity.items(), *manifest.checksums.values()]
    if not all(isinstance(text, str) for several in texts for text in several):
        raise ValueError("identity and checksums are not text")
    for name, form in manifest.arrays().items():
        if len(manifest.checksums[name]) != form.num_chunks:
            raise ValueError(f"{name} has no checksum for each of {form.num_chunks} chunks")


def check_chunk_sizes(path: str | Path, manifest: Manifest) -> dict[str, list[Path]]:
    """The chunk files of each array, once they are known to be there and of the right size.

    Raises:
        ValueError: if one is missing or of another size.
    """
    files: dict[str, list[Path]] = {}
    for name, form in manifest.arrays().items():
        files[name] = [form.chunk_path(Path(path) / name, k) for k in range(form.num_chunks)]
        described = Path(path) / name / "zarr.json"
        if not _is_described(described, form):
            raise ValueError(_damaged(path, f"{described} does not describe what was written"))
        for file in files[name]:
            size = file.stat().st_size if file.is_file() else None
            if size != form.chunk_bytes:
                has = "is missing" if size is None else f"has {size}"
                raise ValueError(
                    _damaged(path, f"{file} must have {form.chunk_bytes} bytes, but {has}")
                )
    return files


def array_metadata(form: ArrayForm) -> dict[str, Any]:
    """What Zarr keeps of an array in its ``zarr.json``."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [form.num_rows, *form.row_shape],
        "data_type": form.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [form.chunk_rows, *form.row_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": -1 if form.dtype.kind == "i" else "NaN",
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }


def _is_described(file: Path, form: ArrayForm) -> bool:
    try:
        return bool(read_json(file) == array_metadata(form))
    except Exception:  # Not there, no JSON, too long, or nested without end.
        return False


def read_json(file: Path) -> Any:
    """What a JSON file of a cache holds.

    Raises:
        FileNotFoundError: if it is not there.
        Exception: any other, of a file that is too long or no JSON.
    """
    return json.loads(read_regular(file, MOST_JSON_BYTES))


def check_content(path: str | Path, file: Path, content: bytes | memoryview, expected: str) -> None:
    """Raise ``ValueError`` unless a chunk file of the cache at ``path`` holds what was written."""
    _check_checksum(path, file, checksum(content), expected)


def check_file(path: str | Path, file: Path, expected: str) -> None:
    """As ``check_content``, of a file that need not fit into memory."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    _check_checksum(path, file, found, expected)


def _check_checksum(path: str | Path, file: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(
            _damaged(path, f"{file} must have the BLAKE2b {shown(expected)}, got {found}")
        )


def checksum(content: bytes | memoryview) -> str:
    """BLAKE2b of 16 bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _other_version(found: object, path: str | Path) -> str:
    return (
        f"a reference cache must have version {CACHE_VERSION}, got {shown(found)} at {path}; "
        "build it again"
    )


def _damaged(path: str | Path, reason: str) -> str:
    return f"the reference cache at {path} is damaged ({reason}); build it again, with overwrite"
