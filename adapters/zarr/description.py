"""What an array says of itself, bounded before Zarr opens it: nothing is allocated by it."""

import json
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from jest_loader.adapters.zarr.local_files import MOST_BYTES

if TYPE_CHECKING:
    import zarr

_MOST_DIMENSIONS = 32
_KINDS = "biufcmMSTUO"  # NumPy's, without those that have fields.
_MOST_ROWS = 1 << 40
_MOST_INNER_CHUNKS = 1 << 20  # Of a shard, each of which has 16 bytes in its index.


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object in a description.

    Raises:
        ValueError: if it is none.
    """
    try:
        found = json.loads(content)
    except Exception as error:  # No text, no JSON, numbers or nesting without end.
        raise ValueError(f"it is no JSON ({error!r})") from None
    if not isinstance(found, dict):
        raise ValueError(f"it must be a JSON object, got {type(found).__name__}")
    return found


def check_bounds(described: Mapping[str, Any]) -> None:
    """Raise an error unless an array's numbers are such that it can be opened."""
    shape = _sizes("shape", described["shape"], least=0)
    if described["zarr_format"] == 2:
        chunk = _sizes("chunks", described["chunks"])
        data_type = described["dtype"]
    else:
        chunk = _sizes("chunk_shape", described["chunk_grid"]["configuration"]["chunk_shape"])
        data_type = described["data_type"]
    if len(shape) != len(chunk):
        raise ValueError(f"it has {len(shape)} dimensions, but its chunks {len(chunk)}")
    if shape and shape[0] > _MOST_ROWS:
        raise ValueError(f"it says that it has {shape[0]} rows, and may have {_MOST_ROWS}")
    item_bytes = max((int(digits) for digits in _digits(data_type)), default=1)
    for what, size in (("a chunk", prod(chunk)), ("a row", prod(shape[1:]))):
        if size > MOST_BYTES or item_bytes > MOST_BYTES:
            raise ValueError(
                f"{what} of it has {size} items of type {json.dumps(data_type)}, and may have "
                f"{MOST_BYTES} bytes"
            )
    for outer, inner in _shards(described.get("codecs") or (), chunk):
        number = prod(-(-size // part) for size, part in zip(outer, inner, strict=True))
        if number > _MOST_INNER_CHUNKS:
            raise ValueError(
                f"its shards have {number} chunks each, and may have {_MOST_INNER_CHUNKS}"
            )


def check_items(array: "zarr.Array[Any]") -> None:
    """Raise ``ValueError`` unless an array that is open has items of a kind and size to be read."""
    if array.dtype.kind not in _KINDS:
        raise ValueError(
            f"its items must be numbers, flags, times, text or bytes, got {array.dtype}; store "
            "each field as an array of its own"
        )
    chunk = array.shards or array.chunks
    for what, shape in (("a chunk", chunk), ("a row", array.shape[1:])):
        num_bytes = prod(shape) * array.dtype.itemsize
        if num_bytes > MOST_BYTES:
            raise ValueError(f"{what} of it has {num_bytes} bytes, and may have {MOST_BYTES}")


def _sizes(name: str, found: Any, *, least: int = 1) -> list[int]:
    if not isinstance(found, list) or len(found) > _MOST_DIMENSIONS:
        raise ValueError(f"{name} must be a list of up to {_MOST_DIMENSIONS} numbers, got {found}")
    if not all(type(size) is int and size >= least for size in found):
        raise ValueError(f"{name} must hold whole numbers of at least {least}, got {found}")
    return found


def _digits(data_type: Any) -> list[str]:
    return re.findall(r"\d{1,20}", json.dumps(data_type))


def _shards(codecs: Any, outer: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The shape of each shard and of the chunks within, of shards within shards too."""
    for codec in codecs:
        if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
            inner = _sizes("chunk_shape", codec["configuration"]["chunk_shape"])
            yield outer, inner
            yield from _shards(codec["configuration"].get("codecs") or (), inner)
