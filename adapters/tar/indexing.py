"""Indexes of tars: kept ones, or made by reading all headers."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jest_loader.adapters.blocks.open_file import Stamp
from jest_loader.adapters.blocks.threads import map_in_threads
from jest_loader.adapters.tar import sidecar
from jest_loader.adapters.tar.fields import TarDamage
from jest_loader.adapters.tar.grouping import grouped
from jest_loader.adapters.tar.headers import members
from jest_loader.adapters.tar.index import TarIndex
from jest_loader.adapters.tar.shard import OpenTar, Shard
from jest_loader.adapters.tar.urls import compressed
from jest_loader.checks import shown

_LOG = logging.getLogger(__name__)
_NUM_THREADS = 4
_QUIET_S, _EACH_S = 1.0, 5.0  # Before the first line of progress, and between two.


@dataclass(frozen=True, eq=False)
class Indexed:
    """What stays in memory of a tar's index while none of its rows is read.

    Args:
        shard: The tar.
        num_rows: Its examples.
        digest: Of its index.
        stamp: Of the file that was indexed.
        index: The index, where it could not be kept in a file.
    """

    shard: Shard
    num_rows: int
    digest: bytes
    stamp: Stamp
    index: TarIndex | None


class Indexer:
    """Makes and finds the indexes of tars.

    Args:
        folder: Where they are kept; None for beside each tar, if that can be written to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def all(self, shards: Sequence[Shard]) -> list[Indexed]:
        """All tars' indexes, in a few threads; the log says how far it is.

        Raises:
            ValueError: if one is no whole tar, or is compressed, or holds no examples.
        """
        progress = _Progress(len(shards))

        def one(shard: Shard) -> Indexed:
            data = shard.open(in_part=True)
            index, is_kept = self._index(shard, data)
            progress.add(index.num_rows)
            return Indexed(
                shard, index.num_rows, index.digest, data.stamp, None if is_kept else index
            )

        found = map_in_threads(one, shards, _NUM_THREADS)
        progress.end()
        return found

    def again(self, indexed: Indexed, data: OpenTar) -> TarIndex:
        """The index of a tar that was indexed before.

        Args:
            indexed: What is known of it.
            data: Its bytes.

        Raises:
            ValueError: if it is another tar by now.
        """
        if data.stamp[1:3] == indexed.stamp[1:3]:
            index = indexed.index or self._index(indexed.shard, data)[0]
            if index.digest == indexed.digest:
                return index
        raise ValueError(
            f"shard {shown(indexed.shard.name)} was replaced or written to after it was indexed "
            f"(it had {indexed.stamp.size} bytes and now has {data.stamp.size}); start again"
        )

    def _index(self, shard: Shard, data: OpenTar) -> tuple[TarIndex, bool]:
        """A tar's index, and whether it is kept in a file."""
        path = sidecar.sidecar_of(shard.path, self._folder)
        found = sidecar.load(path, data)
        if found is not None:
            return found, True
        made = _made(shard, data)
        return made, sidecar.save(path, made, data)


def _made(shard: Shard, data: OpenTar) -> TarIndex:
    try:
        return grouped(members(data), shard.name)
    except TarDamage as damage:
        if damage.is_packed:
            raise compressed(shard.name) from damage
        raise ValueError(
            f"a tar must be whole, but {shown(shard.name)} is no tar, or is damaged or cut short: "
            f"at byte {damage.place}, {shown(damage)}; fetch it again"
        ) from damage


class _Progress:
    """Says in the log how far indexing is, where it takes long.

    Args:
        num_shards: Of all.
    """

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards
        self._done = self._rows = 0
        self._started = time.monotonic()
        self._next = self._started + _QUIET_S
        self._said = False
        self._lock = threading.Lock()

    def add(self, num_rows: int) -> None:
        """Another tar is done."""
        with self._lock:
            self._done += 1
            self._rows += num_rows
            if self._done < self._num_shards and time.monotonic() >= self._next:
                self._say("indexing tars")

    def end(self) -> None:
        """All are."""
        if self._said:
            self._say("indexed tars")

    def _say(self, what: str) -> None:
        self._said = True
        now = time.monotonic()
        self._next = now + _EACH_S
        _LOG.info(
            "%s: %d of %d, %d examples, %.0f s",
            what,
            self._done,
            self._num_shards,
            self._rows,
            now - self._started,
        )
