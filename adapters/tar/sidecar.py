"""The file that keeps a tar's index: little-endian arrays behind a header of fixed size.

::

    magic           16 bytes
    version, tar size, tar mtime in ns, members, rows, bytes of keys, bytes of extensions   7 int64
    digest of the tar's first and last header    16 bytes
    digest of the index                          16 bytes
    starts, sizes, firsts, key_ends (int64), kinds (int16), flaws (uint8), keys, extensions

It is not trusted: one that does not belong to its tar, or whose numbers are out of bounds, is made
anew.
"""

import hashlib
import logging
import os
import struct
from pathlib import Path

import numpy as np

from jest_loader.adapters.tar.fields import BLOCK_BYTES
from jest_loader.adapters.tar.index import MOST_EXTENSIONS, TarIndex
from jest_loader.adapters.tar.shard import OpenTar
from jest_loader.checks import shown
from jest_loader.files import read_regular, replacing

_LOG = logging.getLogger(__name__)
_MAGIC, _VERSION = b"jest-loader tar\0", 1
_HEAD = struct.Struct("<16s7q16s16s")
_DTYPES = ("<i8", "<i8", "<i8", "<i8", "<i2", "<u1")
_MOST_BYTES = 1 << 34
SUFFIX = ".index"


def sidecar_of(path: Path, folder: Path | None) -> Path:
    """Where the index of a tar is kept: beside it, or in a folder for several folders' tars."""
    if folder is None:
        return path.with_name(path.name + SUFFIX)
    digest = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=6).hexdigest()
    return folder / f"{path.name}.{digest}{SUFFIX}"


def load(path: Path, data: OpenTar) -> TarIndex | None:
    """The index at ``path``, if it is there and belongs to the tar; else None, and the log says so.

    Args:
        path: The sidecar.
        data: The tar.
    """
    try:
        content = read_regular(path, min(_MOST_BYTES, _most_bytes(len(data))))
        return _parsed(content, data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _LOG.warning("%s is not used, and made anew: %s", shown(path), shown(error))
        return None


def save(path: Path, index: TarIndex, data: OpenTar) -> bool:
    """Keep an index; False where the folder cannot be written to."""
    extensions = "\0".join(index.extensions).encode()
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        data.stamp.size,
        data.stamp.modified_ns,
        len(index.starts),
        index.num_rows,
        len(index.keys),
        len(extensions),
        _ends(index, data),
        index.digest,
    )
    try:
        with replacing(path) as part, part.open("wb") as file:
            file.write(head)
            for column, dtype in zip(index.arrays(), _DTYPES, strict=True):
                file.write(np.ascontiguousarray(column, dtype).data)
            file.write(index.keys)
            file.write(extensions)
    except OSError as error:
        _LOG.info("the index of a tar is not kept at %s: %s", shown(path), shown(error))
        return False
    return True


def _most_bytes(tar_bytes: int) -> int:
    """What an index of a tar can have at most: each member has a header, and a bounded name."""
    return _HEAD.size + (1 << 24) + 4 * tar_bytes


def _parsed(content: bytes, data: OpenTar) -> TarIndex:
    if len(content) < _HEAD.size:
        raise ValueError("it is cut short")
    magic, version, *numbers, ends, digest = _HEAD.unpack_from(content)
    size, modified_ns, num_members, num_rows, key_bytes, extension_bytes = numbers
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it is no index of this version")
    if (size, modified_ns) != (data.stamp.size, data.stamp.modified_ns):
        raise ValueError("the tar has changed since")
    counts = (num_members, num_members, num_rows + 1, num_rows, num_members, num_members)
    sizes = [n * np.dtype(dtype).itemsize for n, dtype in zip(counts, _DTYPES, strict=True)]
    sizes += [key_bytes, extension_bytes]
    if min(numbers) < 0 or num_rows < 1 or _HEAD.size + sum(sizes) != len(content):
        raise ValueError("its size is not what its header says")
    places = _HEAD.size + np.cumsum([0, *sizes])
    arrays = [
        np.frombuffer(content, dtype, count, int(place)).astype(np.dtype(dtype).newbyteorder("="))
        for dtype, count, place in zip(_DTYPES, counts, places, strict=False)
    ]
    starts, row_sizes, firsts, key_ends, kinds, flaws = arrays
    extensions = content[places[-2] :]
    if extensions.count(b"\0") >= MOST_EXTENSIONS:
        raise ValueError("it has too many extensions")
    found = TarIndex(
        starts,
        row_sizes,
        kinds,
        flaws,
        firsts,
        key_ends,
        content[places[-3] : places[-2]],
        tuple(extensions.decode().split("\0")),
    )
    found.check(len(data))
    if found.digest != digest:
        raise ValueError("it does not have its digest")
    if _ends(found, data) != ends:
        raise ValueError("it belongs to another tar")
    return found


def _ends(index: TarIndex, data: OpenTar) -> bytes:
    """A digest of the tar's first and last header."""
    pieces = [memoryview(bytearray(BLOCK_BYTES)) for _ in range(2)]
    data.read_into(pieces, [0, int(index.starts[-1]) - BLOCK_BYTES])
    return hashlib.blake2b(b"".join(pieces), digest_size=16).digest()
