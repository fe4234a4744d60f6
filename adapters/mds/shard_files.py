"""The files of a data set's shards, checked against the index when they are opened.

A file may change after its hash was checked. So the hash is checked when a shard is first opened,
and again whenever the file's size, time stamps or inode have changed since.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jest_loader.adapters.mds.remote import RemoteFolder
from jest_loader.adapters.mds.shard_bytes import ShardBytes, Stamp, map_file, stamp_of

if TYPE_CHECKING:
    from streaming.base.format.base.reader import FileInfo
    from streaming.base.format.mds.reader import MDSReader

_HASHES_BY_SPEED = ("xxh3_64", "xxh3_128", "xxh128", "xxh64", "xxh32", "sha1", "md5", "sha256")


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
            path, stamp = self._find(raw)
            data, is_mapped = map_file(path, raw.bytes)
            _check(data, raw, str(path), hashed=self._is_new(raw, stamp))
            self._verified[raw.basename] = stamp
            return ShardBytes(path, data, stamp if is_mapped else None)
        path, stamp = self._find(packed)
        is_new = self._is_new(packed, stamp)
        stored = path.read_bytes()
        _check(stored, packed, str(path), hashed=is_new)
        data = _decompress(stored, shard.compression, path)
        _check(data, raw, f"{path}, decompressed,", hashed=is_new)
        self._verified[packed.basename] = stamp
        return ShardBytes(path, data, None)

    def _find(self, info: "FileInfo") -> tuple[Path, Stamp]:
        path = self._path / info.basename
        if self._remote is not None:
            path = self._remote.fetch(info.basename)
        try:
            stamp = stamp_of(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"shard {path} is in the index but not in the folder; fetch it again"
            ) from error
        _check_size(stamp.size, info, str(path))
        return path, stamp

    def _is_new(self, info: "FileInfo", stamp: Stamp) -> bool:
        return self._verified.get(info.basename) != stamp


def _decompress(stored: bytes, compression: str | None, path: Path) -> memoryview:
    from streaming.base.compression import decompress

    try:
        return memoryview(decompress(compression, stored))
    except Exception as error:  # each codec raises exceptions of its own
        raise ValueError(f"{path} cannot be decompressed: {error}; fetch it again") from error


def _check(data: "bytes | memoryview", info: "FileInfo", name: str, *, hashed: bool) -> None:
    """Compare with the index: the size and, if ``hashed``, the hash that is fastest to compute."""
    from streaming.base.hashing import get_hash

    _check_size(len(data), info, name)
    algorithms = [name for name in _HASHES_BY_SPEED if name in info.hashes] or sorted(info.hashes)
    for algorithm in algorithms[:1] if hashed else []:
        found = get_hash(algorithm, data)  # type: ignore[arg-type]  # any buffer will do
        if found != info.hashes[algorithm]:
            raise ValueError(
                f"shard {name} must have the {algorithm} {info.hashes[algorithm]} as the index "
                f"says, got {found}; fetch it again"
            )


def _check_size(num_bytes: int, info: "FileInfo", name: str) -> None:
    if num_bytes != info.bytes:
        raise ValueError(
            f"shard {name} must have {info.bytes} bytes as the index says, got {num_bytes}; fetch "
            "it again"
        )
