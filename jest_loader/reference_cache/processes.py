"""Several processes that build one cache: which chunks each builds, waiting, and progress."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile

from jest_loader.environment import launched_as
from jest_loader.protocols import CountedSource, SeekableSource, Source
from jest_loader.reference_cache.chunk_records import Record
from jest_loader.reference_cache.folder import CacheFolder

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2


@dataclass(frozen=True)
class Process:
    """One of the processes that build a cache.

    Args:
        number: The number of this process, from 0.
        world_size: How many processes there are.
    """

    number: int
    world_size: int

    @classmethod
    def of_this_process(cls) -> "Process":
        """The rank that torchrun has set in the environment; else the only one.

        Raises:
            ValueError: if what is set there cannot be.
        """
        return cls(*launched_as())

    def chunks(self, num_chunks: int | None) -> range:
        """The chunks that this process builds: consecutive, and independent of what is done."""
        if num_chunks is None:
            return range(1 << 62)  # Up to where the source ends.
        ends = [num_chunks * rank // self.world_size for rank in (self.number, self.number + 1)]
        return range(*ends)

    def check(self, source: Source, timeout_s: float | None, *, overwrite: bool) -> None:
        """Raise ``ValueError`` if several processes cannot share the work, or wait so long."""
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"peers_timeout_s must be positive or None, got {timeout_s}")
        if self.world_size == 1:
            return
        if overwrite:
            raise ValueError(
                f"overwrite=True works with one process only, got {self.world_size}; delete the "
                "cache first"
            )
        if not isinstance(source, SeekableSource) or num_promised(source) is None:
            raise ValueError(
                "several processes can only build a cache of a source with seek and num_examples, "
                f"got {type(source).__name__} for {self.world_size} of them; use MdsSource or "
                "ZarrSource, or one process"
            )


def num_promised(source: Source) -> int | None:
    """How many examples the source says it holds, if it says so."""
    return source.num_examples if isinstance(source, CountedSource) else None


def wait_for(
    is_done: Callable[[], bool], what: str, num_built: Callable[[], int], timeout_s: float | None
) -> None:
    """Wait until it is done, with a word in the log if it is not done yet.

    Raises:
        TimeoutError: if no chunk was built anywhere for ``timeout_s`` seconds.
    """
    if is_done():
        return
    _LOG.warning("this process has built its chunks; waiting for %s", what)
    built, since = num_built(), time.monotonic()
    while not is_done():
        time.sleep(_POLL_S)
        if num_built() != built:
            built, since = num_built(), time.monotonic()
        elif timeout_s is not None and time.monotonic() - since > timeout_s:
            raise TimeoutError(
                f"all processes must build their chunks of a cache, but waiting for {what}, none "
                f"came for {timeout_s:g} s; see why they ended, and make the same call again, or "
                "give a longer peers_timeout_s"
            )


def all_there(folder: CacheFolder) -> bool:
    """Whether all chunks are built, or the cache is even whole."""
    num_chunks = folder.settings.num_chunks
    return (
        num_chunks is None
        or folder.is_finished()
        or all(folder.record(number) is not None for number in range(num_chunks))
    )


@contextmanager
def progress_bar(
    folder: CacheFolder, rank: Process, *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of rows just done; shows a bar on stderr."""
    if not shown:
        yield lambda _: None
        return
    from tqdm import tqdm

    settings = folder.settings
    chunks = rank.chunks(settings.num_chunks)
    records: Iterable[Record | None]
    if settings.num_rows is None:
        total = None
        records = takewhile(bool, map(folder.record, count()))
    else:
        last = min(settings.num_rows, chunks.stop * settings.chunk_rows)
        total = last - chunks.start * settings.chunk_rows
        records = map(folder.record, chunks)
    done = sum(record.num_rows for record in records if record is not None)
    name = "cache" if rank.world_size == 1 else f"cache {rank.number}"
    with tqdm(total=total, initial=done, unit=" rows", desc=name, position=rank.number) as bar:
        yield bar.update
