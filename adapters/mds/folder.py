"""The shards of a stream, ready to be opened."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jest_loader.adapters.fetching import RemoteFolder, claim
from jest_loader.adapters.mds.index import fetch_index, load_index
from jest_loader.adapters.mds.shard_files import ShardFiles
from jest_loader.adapters.mds.shard_info import INDEX
from jest_loader.adapters.mds.stream import MdsStream
from jest_loader.checks import shown

if TYPE_CHECKING:
    from streaming.base.format.mds.reader import MDSReader


class ShardFolder:
    """The shards of a stream.

    ``num_threads`` says how many of them should be opened at once.

    Args:
        stream: Where they are; its index is fetched again.

    Raises:
        ValueError: if there is no index that can be read, or ``stream.local`` holds what was not
            fetched from ``stream.path``.
        OSError: if the index cannot be fetched.
    """

    def __init__(self, stream: MdsStream) -> None:
        self.stream = stream
        self.path = Path(stream.path if stream.local is None else stream.local)
        remote = None
        if stream.local is not None:
            remote = RemoteFolder(os.fspath(stream.path), self.path, stream.limit_bytes)
            claim(self.path, remote.remote)
            remote.remove_old_parts()
            fetch_index(remote)
        self.index = load_index(self.path)
        # Empty shards hold nothing to deliver.
        self.shards = [shard for shard in self._readers() if shard.samples]
        if remote is not None:
            files = [shard.zip_data or shard.raw_data for shard in self.shards]
            remote.set_sizes({file.basename: file.bytes for file in files})
        self.files = ShardFiles(self.path, remote)
        self.num_threads = 1 if remote is None else remote.num_threads

    def _readers(self) -> list["MDSReader"]:
        """One of ``streaming``'s readers for each shard, which only tell what the index says."""
        from streaming.base.format.mds.reader import MDSReader

        # Pickles are refused by MdsShards, which also lets a user leave their columns out.
        readers = []
        for number, info in enumerate(self.index["shards"]):
            try:
                readers.append(MDSReader.from_json(str(self.path), None, info))
            except Exception as error:  # An entry may lack or have anything beside what we use.
                raise ValueError(
                    f"{shown(self.path / INDEX)} is not an MDS index: streaming cannot read the "
                    f"entry of shard {number}: {shown(repr(error))}; fetch it again"
                ) from error
        return readers
