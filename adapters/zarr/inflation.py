"""How much a codec makes of a chunk's bytes, bounded before it is done."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jest_loader.adapters.zarr.local_files import MOST_BYTES

_ZSTD_BLOCK = 1 << 17  # The most that a block of a zstd frame holds.
_PIECE_BYTES = 1 << 20


def most_bytes(num_items: int, dtype: np.dtype[Any]) -> int:
    """What a chunk may be at any stage of its decoding; text and bytes have no declared size.

    Filters may store numbers as wider ones, and codecs beside compressors add some bytes.
    """
    if dtype.kind in "OT":
        return MOST_BYTES
    return min(2 * num_items * max(dtype.itemsize, 8) + 4096, MOST_BYTES)


def decoded(name: str, data: memoryview, most: int, num_items: int) -> bytes | None:
    """The bytes that a codec makes of a chunk's, or None if its own decoding is found bounded.

    Args:
        name: The codec's, as numcodecs has it.
        data: The chunk as it is stored.
        most: The bytes that it may have then.
        num_items: The values that it should have.

    Raises:
        ValueError: if it would have more.
    """
    if name in _STREAMS:
        return _inflated(_STREAMS[name], data, most)
    if name in _DECLARED:
        _check(_DECLARED[name](data), most, "bytes")
    elif name.startswith("vlen-"):
        _check(_number(data, 0, 4), num_items, "values")
    return None


def is_bounded(name: str) -> bool:
    """Whether a codec makes no more of its bytes than they are, or a small multiple of it."""
    return name not in {*_STREAMS, *_DECLARED} and not name.startswith("vlen-")


def is_quick(name: str) -> bool:
    """Whether ``decoded`` looks at the first bytes alone."""
    return name not in _STREAMS


def _check(found: int, most: int, unit: str) -> None:
    if found > most:
        raise ValueError(f"it would be decoded to {found} {unit}, and may have {most}")


def _number(data: memoryview, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "little")


def _blosc_bytes(data: memoryview) -> int:
    if _number(data, 12, 4) > len(data):  # It would be read to that length.
        raise ValueError("it is cut short")
    return _number(data, 4, 4)


def _zstd_bytes(data: memoryview) -> int:
    """The size that a zstd frame declares; 0 if it does not and no blocks of it can be too much."""
    kind = data[4] if len(data) > 4 else 0
    single, dictionary, flag = kind >> 5 & 1, kind & 3, kind >> 6
    size = (single, 2, 4, 8)[flag]
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    if size:
        return _number(data, start, size) + (256 if flag == 1 else 0)
    num_blocks, is_last = 0, False
    while not is_last and start < len(data):
        header = _number(data, start, 3)
        is_last, is_run = bool(header & 1), header >> 1 & 3 == 1
        start += 3 + (1 if is_run else header >> 3)
        num_blocks += 1
    _check(num_blocks * _ZSTD_BLOCK, MOST_BYTES, "bytes")
    return 0


def _inflated(new: Callable[[], Any], data: memoryview, most: int) -> bytes:
    pieces, size, rest = [], 0, bytes(data)
    while rest:  # A gzip file may have several streams.
        stream = new()
        for piece in _pieces(stream, rest):
            pieces.append(piece)
            size += len(piece)
            _check(size, most, "bytes or more")
        rest = stream.unused_data.lstrip(b"\0")
    return b"".join(pieces)


def _pieces(stream: Any, data: bytes) -> Iterator[bytes]:
    while not stream.eof:
        piece = stream.decompress(data, _PIECE_BYTES)
        data = getattr(stream, "unconsumed_tail", b"")  # The others keep it to themselves.
        if not piece and not stream.eof and getattr(stream, "needs_input", not data):
            raise ValueError("it is cut short")
        yield piece


_DECLARED: dict[str, Callable[[memoryview], int]] = {
    "blosc": _blosc_bytes,
    "lz4": lambda data: _number(data, 0, 4),
    "zstd": _zstd_bytes,
}
_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=MOST_BYTES),
}
