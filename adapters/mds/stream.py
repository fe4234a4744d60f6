"""A folder of MDS shards, local or remote: its index, and the files that the index lists."""

import json
import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jest_loader.adapters.mds.file import ShardFiles
from jest_loader.adapters.mds.remote import RemoteFolder

if TYPE_CHECKING:
    from streaming.base.format.mds.reader import MDSReader

_INDEX = "index.json"


@dataclass(frozen=True)
class MdsStream:
    """A folder of MDS shards: a remote one, or one of several that are mixed.

    Args:
        path: The folder that holds index.json: a local path or a URL.
        local: The folder that shards are fetched into when they are first read; processes may share
            it. None reads them at ``path``, which must be local then.
        limit_bytes: The most bytes that shards may take in ``local``; to make room, the least
            recently used are deleted. None for no limit.
        proportion: The stream's part of an epoch, relative to the other streams' proportions. An
            epoch has as many rows as all streams together: a small stream's rows are repeated, of a
            large stream each epoch has other rows. None for all streams: each row once.

    Raises:
        ValueError: if a URL has no ``local`` folder, or an argument is out of range.
    """

    path: str | PathLike[str]
    local: str | PathLike[str] | None = None
    limit_bytes: int | None = None
    proportion: float | None = None

    def __post_init__(self) -> None:
        if self.local is None and "://" in os.fspath(self.path):
            raise ValueError(
                f"shards at a URL are fetched into a local folder, but {self.path} has none; give "
                "one as in MdsStream(url, local=folder)"
            )
        if self.local is not None and Path(self.local).resolve() == Path(self.path).resolve():
            raise ValueError(
                f"local must be another folder than path, since its files may be dropped, got "
                f"{self.path} for both; leave local out to read shards where they are"
            )
        if self.limit_bytes is not None and self.local is None:
            raise ValueError("limit_bytes limits the folder local, but that is None; give both")
        if self.proportion is not None and not 0 < self.proportion < float("inf"):
            raise ValueError(f"proportion must be positive or None, got {self.proportion}")


class ShardFolder:
    """The shards of a stream.

    ``num_threads`` says how many of them should be opened at once.

    Args:
        stream: Where they are; its index is fetched again.

    Raises:
        ValueError: if there is no index that can be read.
        OSError: if the index cannot be fetched.
    """

    def __init__(self, stream: MdsStream) -> None:
        self.stream = stream
        self.path = Path(stream.path if stream.local is None else stream.local)
        remote = None
        if stream.local is not None:
            remote = RemoteFolder(os.fspath(stream.path), self.path, stream.limit_bytes)
            remote.remove_old_parts()
            _fetch_index(remote)
        self.index = _load_index(self.path)
        # Empty shards hold nothing to deliver.
        self.shards = [shard for shard in _readers(self.path) if shard.samples]
        if remote is not None:
            files = [shard.zip_data or shard.raw_data for shard in self.shards]
            remote.set_sizes({file.basename: file.bytes for file in files})
        self.files = ShardFiles(self.path, remote)
        self.num_threads = 1 if remote is None else remote.num_threads


def _fetch_index(remote: RemoteFolder) -> None:
    """Fetch the index again, and delete local files that it describes otherwise than before."""
    path = remote.local / _INDEX
    before = _files_in(path)
    remote.fetch(_INDEX, again=True)
    after = _files_in(path)
    if before == after:
        return
    for name, info in before.items():
        # Without a hash nothing tells whether the file is still the same.
        if info != after.get(name) or not info.get("hashes"):
            remote.drop(name)


def _files_in(path: Path) -> dict[str, dict[str, Any]]:
    """The index's entry for each file, by name; none if the index cannot be read.

    ``_load_index`` reports an index that cannot be read.
    """
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        files = [file for info in shards for file in (info["raw_data"], info["zip_data"]) if file]
        return {PurePosixPath(file["basename"]).name: file for file in files}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _load_index(path: Path) -> dict[str, Any]:
    """The parsed index.json, checked for what ``streaming`` needs to make readers of it."""
    index_path = path / _INDEX
    if not index_path.is_file():
        raise ValueError(
            f"path must be a local folder with an MDS index.json, got {str(path)!r}; shards that "
            "are elsewhere are read by MdsStream(url, local=folder)"
        )
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        shards = [(info["format"], info["raw_data"], info["zip_data"]) for info in index["shards"]]
        version = index["version"]
        files = [file["basename"] for _, *pair in shards for file in pair if file]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index_path} is not an MDS index: {error!r}; fetch it again") from error
    formats = {format_ for format_, *_ in shards}
    if version != 2 or formats - {"mds"}:
        raise ValueError(
            f"{index_path} must list MDS shards of version 2, got version {version} and "
            f"{sorted(formats)}; write the data set again with MDSWriter"
        )
    outside = [
        name for name in files if PurePosixPath(name).is_absolute() or ".." in Path(name).parts
    ]
    if outside:
        raise ValueError(
            f"{index_path} must name files inside its folder, got {outside}; do not use an index "
            "from a source that you do not trust"
        )
    return dict(index)


def _readers(path: Path) -> list["MDSReader"]:
    """One of ``streaming``'s readers for each shard."""
    try:
        from streaming import Stream
    except ModuleNotFoundError as error:
        if error.name != "streaming":
            raise
        raise ModuleNotFoundError(
            "reading MDS shards needs mosaicml-streaming; pip install 'jest-loader[mds]'",
            name="streaming",
        ) from error
    from streaming.base.format.mds.reader import MDSReader
    from streaming.base.world import World

    stream = Stream(local=str(path))
    stream.apply_default(
        {
            "split": None,
            "download_retry": 1,
            "download_timeout": 60,
            "validate_hash": None,
            "keep_zip": True,
        }
    )
    try:
        # Pickles are refused by MdsShards, which also lets a user leave their columns out.
        readers = stream.get_shards(World(1, 1, 1, 0), allow_unsafe_types=True)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{path / _INDEX} is not an MDS index: {error!r}; fetch it again"
        ) from error
    return [reader for reader in readers if isinstance(reader, MDSReader)]
