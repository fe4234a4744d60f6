"""Fetches files of a remote folder into a local one, which may have a limit.

``streaming``'s downloaders fetch from S3, GCS, Azure, OCI, SFTP, Hugging Face, Databricks and local
paths, fsspec over HTTP. A file appears under its name once it is whole. So processes may share the
local folder, and a process that is killed leaves no file that looks whole and is not.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

_ATTEMPTS = 3
_MOST_THREADS = 8
_TIMEOUT_S = 60.0
_OLD_S = 3600.0  # longer than a download lasts
_MAKING_ROOM = threading.Lock()


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
        self._sizes: Mapping[str, int] = {}
        self._fetching: set[str] = set()
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
                f"limit_bytes must hold the largest file of {self.remote}, which has {largest} "
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

    def fetch(self, name: str, *, again: bool = False) -> Path:
        """Fetch a file if it is not there yet, or ``again`` is set, and return its local path.

        Raises:
            OSError: if it cannot be fetched.
        """
        path = self.local / name
        self._used_ns[name] = time.time_ns()
        if path.is_file() and not again:
            return path
        with _MAKING_ROOM:
            self._fetching.add(name)
            self._make_room()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            self._download(name, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
            with _MAKING_ROOM:
                self._fetching.discard(name)
        return path

    def remove_old_parts(self) -> None:
        """Delete the unfinished downloads of processes that were killed."""
        for part in self.local.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _OLD_S:
                    part.unlink()

    def drop(self, name: str) -> None:
        """Delete the local copy, if there is one."""
        (self.local / name).unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Delete the least recently used files until those being fetched fit."""
        if self._limit_bytes is None:
            return
        needed = sum(self._sizes.get(name, 0) for name in self._fetching)
        kept = []
        for name in self._sizes.keys() - self._fetching:
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

    def _download(self, name: str, to: Path) -> None:
        from streaming.base.util import retry

        source = f"{self.remote.rstrip('/')}/{name}"
        download = _over_http if urlparse(source).scheme in ("http", "https") else _by_streaming
        try:
            retry(num_attempts=_ATTEMPTS)(lambda: download(source, to))()
        except Exception as error:  # Each store's client raises exceptions of its own.
            raise OSError(
                f"{source} cannot be fetched after {_ATTEMPTS} attempts: {error!r}; check the "
                "address, the credentials and the network"
            ) from error


def _by_streaming(source: str, to: Path) -> None:
    from streaming.base.storage.download import CloudDownloader

    CloudDownloader.direct_download(source, str(to), _TIMEOUT_S)


def _over_http(source: str, to: Path) -> None:
    import fsspec

    with fsspec.open(source, "rb") as remote, to.open("wb") as local:
        shutil.copyfileobj(remote, local)
