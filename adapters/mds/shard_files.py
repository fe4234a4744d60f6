"""The files of a data set's shards, checked against the index when they are opened.

A file may change after its hash was checked. So the hash is checked when a shard is first opened,
and again whenever the file's size, time stamps or inode have changed since.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jest_loader.adapters.blocks.open_file import OpenFile, Stamp
from jest_loader.adapters.fetching import RemoteFolder
from jest_loader.adapters.mds.inflate import inflate
from jest_loader.adapters.mds.shard_bytes import ShardBytes
from jest_loader.checks import shown
from jest_loader.ragged import Buffer

if TYPE_CHECKING:
    from streaming.base.format.base.reader import FileInfo
    from streaming.base.format.mds.reader import MDSReader

_HASHES_BY_SPEED = ("xxh3_64", "xxh3_128", "xxh128", "xxh64", "xxh32", "sha1", "md5", "sha256")
# Smaller files are read whole: a window may have more of them than may be open at once.
_LEAST_FILE_BYTES = 1 << 20


class ShardFiles:
    """Opens the shards of a data set, and hashes a file only if it is new or has changed.

    Args:
        path: The folder that holds them.
        remote: Where the folder's files are fetched from; None if all are there.
    """

    def __init__(self, path: Path, remote: RemoteFolder | None = None) -> None:
        self._path = path
        self._remote = remote
        self._verified: dict[str, Stamp] = {}

    def open(self, shard: "MDSReader") -> ShardBytes:
        """The bytes of a shard, checked; a damaged shard that was fetched is fetched once more.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if it is not what the index describes.
            OSError: if it cannot be fetched.
        """
        try:
            return self._open(shard)
        except (ValueError, FileNotFoundError):
            if self._remote is None:
                raise
            # It was damaged, in transit or since, or another process deleted it to make room.
            self._remote.drop((shard.zip_data or shard.raw_data).basename)
            return self._open(shard)

    def _open(self, shard: "MDSReader") -> ShardBytes:
        raw, packed = shard.raw_data, shard.zip_data
        if packed is None or (self._remote is None and (self._path / raw.basename).is_file()):
            file = self._find(raw)
            data = file if len(file) >= _LEAST_FILE_BYTES else file.content()
            if self._is_new(raw, file):
                blocks = file.blocks() if isinstance(data, OpenFile) else [data]
                _check_hash(blocks, raw, str(file.path))
            self._verified[raw.basename] = file.stamp
            return ShardBytes(file.path, data)
        file = self._find(packed)
        stored = file.content()
        is_new = self._is_new(packed, file)
        if is_new:
            _check_hash([stored], packed, str(file.path))
        data = _inflated(stored, shard, file.path)
        if is_new:
            _check_hash([data], raw, f"{file.path}, decompressed,")
        self._verified[packed.basename] = file.stamp
        return ShardBytes(file.path, data)

    def _find(self, info: "FileInfo") -> OpenFile:
        path = self._path / info.basename
        if self._remote is not None:
            path = self._remote.fetch(info.basename)
        try:
            file = OpenFile(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"shard {path} is in the index but not in the folder; fetch it again"
            ) from error
        _check_size(len(file), info, str(path))
        return file

    def _is_new(self, info: "FileInfo", file: OpenFile) -> bool:
        return self._verified.get(info.basename) != file.stamp


def _inflated(stored: memoryview, shard: "MDSReader", path: Path) -> memoryview:
    try:
        return inflate(stored, shard.compression, shard.raw_data.bytes)
    except Exception as error:  # each codec raises exceptions of its own
        raise ValueError(
            f"{shown(path)} cannot be decompressed to the {shard.raw_data.bytes} bytes that the "
            f"index says: {shown(error)}; fetch it again"
        ) from error


def _check_hash(blocks: Iterable[Buffer], info: "FileInfo", name: str) -> None:
    """Compare with the hash of the index that is fastest to compute, if it has one."""
    algorithms = [name for name in _HASHES_BY_SPEED if name in info.hashes] or sorted(info.hashes)
    for algorithm in algorithms[:1]:
        digest = _digest(algorithm)
        for block in blocks:
            digest.update(block)
        found = digest.hexdigest()
        if found != info.hashes[algorithm]:
            raise ValueError(
                f"shard {name} must have the {algorithm} {shown(info.hashes[algorithm])} as the "
                f"index says, got {found}; fetch it again"
            )


def _digest(algorithm: str) -> Any:
    """An empty digest, of those that ``streaming`` knows."""
    import xxhash

    if algorithm in xxhash.algorithms_available:
        return getattr(xxhash, algorithm)()
    return hashlib.new(algorithm)


def _check_size(num_bytes: int, info: "FileInfo", name: str) -> None:
    if num_bytes != info.bytes:
        raise ValueError(
            f"shard {name} must have {info.bytes} bytes as the index says, got {num_bytes}; fetch "
            "it again"
        )
