"""Fetches files of a remote folder into a local one, which may have a limit.

obstore fetches from S3, ``streaming``'s downloaders from GCS, Azure, OCI, SFTP, Hugging Face and
Databricks, ``http_file`` over HTTP; files of a path are copied. A file appears under its name once
it is whole.
So processes may share the local folder, and a process that is killed leaves no file that looks
whole and is not.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from jest_loader.adapters.fetching.part_file import FileRange, NotFetched, PartFile
from jest_loader.adapters.fetching.places import place_of
from jest_loader.checks import shown, without_secrets

_ATTEMPTS = 3
_PROGRESS_BYTES = 1 << 20  # After which an attempt is the first again.
_MOST_THREADS = 8
_OLD_S = 3600.0  # Without a byte, which a download that goes on is not.
MOST_INDEX_BYTES = 1 << 28  # Of some 300,000 shards.
_MAKING_ROOM = threading.Lock()

T = TypeVar("T")


class RemoteFolder:
    """The files of ``remote``, as local paths.

    Args:
        remote: A URL, or the path of a folder.
        local: The folder that files are fetched into; it is made if there is none.
        limit_bytes: The most bytes that fetched files may take in ``local``; to make room, the
            least recently used are deleted. None for no limit.

    Raises:
        ValueError: if ``limit_bytes`` is not positive.
    """

    def __init__(self, remote: str, local: Path, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes < 1:
            raise ValueError(f"limit_bytes must be at least 1 or None, got {limit_bytes}")
        self.remote = remote
        self.local = local
        self._limit_bytes = limit_bytes
        self._place = place_of(remote)
        self._sizes: Mapping[str, int] = {}
        # When this process last used each file. Not the files' own times: they show changes.
        self._used_ns: dict[str, int] = {}

    def set_sizes(self, sizes: Mapping[str, int]) -> None:
        """Tell the size in bytes of each file that may be fetched, and deleted to make room.

        Raises:
            ValueError: if the largest does not fit the limit.
        """
        largest = max(sizes.values(), default=0)
        if self._limit_bytes is not None and largest > self._limit_bytes:
            raise ValueError(
                "limit_bytes must hold the largest file of "
                f"{without_secrets(self.remote)}, which has {largest} "
                f"bytes, got {self._limit_bytes}; allow several times as much"
            )
        self._sizes = sizes

    @property
    def num_threads(self) -> int:
        """How many files may be fetched at once; together they take at most half the limit."""
        largest = max(self._sizes.values(), default=0)
        if self._limit_bytes is None or largest == 0:
            return _MOST_THREADS
        return min(_MOST_THREADS, max(1, self._limit_bytes // (2 * largest)))

    def fetch(self, name: str, *, check: Callable[[Path], object] | None = None) -> Path:
        """Fetch a file if it is not there yet, and return its local path.

        Args:
            name: The file's.
            check: Raises an error for a file that is not to be taken; with it a file that is there
                is fetched again.

        Raises:
            OSError: if it cannot be fetched.
        """
        path = self.local / name
        self._used_ns[name] = time.time_ns()
        if path.is_file() and check is None:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._part(name) as part:
            self._make_room()
            self._download(name, part)
            if check is not None:
                check(part)
            part.replace(path)
        return path

    @contextmanager
    def _part(self, name: str) -> Iterator[Path]:
        """A file to download to, in a folder of its own: clients put others beside it."""
        prefix = f".{quote(name, safe='')}."
        with tempfile.TemporaryDirectory(
            ".part", prefix, self.local, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder) / Path(name).name

    def _parts(self) -> Iterator[Path]:
        """The folders of downloads, of this process and others."""
        yield from self.local.glob(".*.part")

    def remove_old_parts(self) -> None:
        """Delete the unfinished downloads of processes that were killed."""
        for part in self._parts():
            # One that is going on, however slowly, has just written.
            if time.time() - max(map(_modified_s, [part, *part.rglob("*")])) > _OLD_S:
                shutil.rmtree(part, ignore_errors=True)

    def drop(self, name: str) -> None:
        """Delete the local copy, if there is one."""
        (self.local / name).unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Delete the least recently used files until those being fetched, by any process, fit."""
        if self._limit_bytes is None:
            return
        with _MAKING_ROOM:
            fetched = [unquote(part.name[1:].rsplit(".", 2)[0]) for part in self._parts()]
            needed = sum(self._sizes.get(name, 0) for name in fetched)
            kept = []
            for name in self._sizes.keys() - set(fetched):
                try:
                    found = (self.local / name).stat()
                except FileNotFoundError:
                    continue
                last_used = max(found.st_mtime_ns, self._used_ns.get(name, 0))
                kept.append((last_used, name, found.st_size))
            in_use = sum(size for *_, size in kept)
            for _, name, size in sorted(kept):
                if in_use + needed <= self._limit_bytes:
                    return
                self.drop(name)  # A process that has it open or mapped keeps it (POSIX).
                in_use -= size

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """The bytes of a file from ``start`` to before ``stop``, which are not kept in ``local``.

        Raises:
            OSError: if they cannot be fetched.
        """
        return self._try(name, lambda: self._place.read_range(name, start, stop), lambda: 0)

    def _download(self, name: str, to: Path) -> None:
        num_bytes = self._sizes.get(name)
        part = PartFile(to, MOST_INDEX_BYTES if num_bytes is None else num_bytes)
        attempt = self._place.attempt(name, part, num_bytes)
        self._try(name, attempt, lambda: to.stat().st_size if to.exists() else 0)

    def _try(self, name: str, attempt: Callable[[], T], reached: Callable[[], int]) -> T:
        try:
            return _attempts(attempt, reached)
        except ModuleNotFoundError:  # It says what to install.
            raise
        except Exception as error:  # Each store's client raises exceptions of its own.
            reason = error if isinstance(error, NotFetched) else repr(error)
            # Its traceback would show the passwords that the message leaves out.
            raise OSError(
                f"{shown(without_secrets(self._place.address(name)))} cannot be fetched: "
                f"{shown(without_secrets(reason), most=500)}; check the address, the credentials "
                "and the network"
            ) from None


def _attempts(attempt: Callable[[], T], reached: Callable[[], int]) -> T:
    """Make attempts until one ends well, some in a row bring nothing, or another would not help."""
    farthest, failed = 0, 0
    while True:
        try:
            return attempt()
        except ModuleNotFoundError:
            raise
        except Exception as error:
            failed += 1
            if reached() >= farthest + _PROGRESS_BYTES:
                farthest, failed = reached(), 1
            final = isinstance(error, NotFetched) and error.final
            if final or failed == _ATTEMPTS:
                raise
            asked_s = error.wait_s if isinstance(error, NotFetched) else 0.0
            time.sleep(max(asked_s, 2.0 ** (failed - 1)))


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # It has just ended.
        return time.time()
