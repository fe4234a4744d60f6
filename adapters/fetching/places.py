"""Where remote files may be, by their folder's address."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from jest_loader.adapters.fetching import part_file
from jest_loader.adapters.fetching.http_file import HttpFolder
from jest_loader.adapters.fetching.object_store import SCHEMES, ObjectFolder
from jest_loader.adapters.fetching.part_file import FileRange, NotFetched, PartFile

_BLOCK_BYTES = 1 << 20


class Place(Protocol):
    """A folder of remote files."""

    def address(self, name: str) -> str:
        """What messages call a file."""

    def attempt(self, name: str, to: PartFile, num_bytes: int | None) -> Callable[[], None]:
        """What fetches a file of ``num_bytes``, if that is known, each time that it is called."""

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """The bytes of a file from ``start`` to before ``stop``."""


def place_of(remote: str) -> Place:
    """The place of a URL or a path."""
    scheme = urlsplit(remote).scheme
    if scheme in ("http", "https"):
        return HttpFolder(remote)
    if remote.startswith(SCHEMES):
        return ObjectFolder(remote)
    if scheme == "file":
        return PathFolder(unquote(urlsplit(remote).path))
    if "://" in remote or remote.startswith("dbfs:/"):
        return OtherStore(remote)
    return PathFolder(remote)


class PathFolder:
    """The files of a path, which may be a mounted store.

    Args:
        path: The folder.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def address(self, name: str) -> str:
        """The path of a file."""
        return str(self._path / name)

    def attempt(self, name: str, to: PartFile, num_bytes: int | None) -> Callable[[], None]:
        """What copies a file when it is called."""
        return lambda: self._copy(name, to)

    def _copy(self, name: str, to: PartFile) -> None:
        source = self._file(name)
        with source.open("rb") as remote, to.path.open("wb", buffering=0) as local:
            while block := remote.read(_BLOCK_BYTES):
                to.write(local, block)

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """The bytes of a file from ``start`` to before ``stop``."""
        with self._file(name).open("rb") as file:
            num_bytes = file.seek(0, 2)
            file.seek(start)
            return FileRange(file.read(stop - start), num_bytes, None)

    def _file(self, name: str) -> Path:
        if not (self._path / name).is_file():
            raise NotFetched("there is no such file", final=True)
        return self._path / name


class OtherStore:
    """The files of a store that ``streaming`` has a client for.

    Args:
        url: The folder's address.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def address(self, name: str) -> str:
        """The URL of a file."""
        return f"{self._url}/{name}"

    def attempt(self, name: str, to: PartFile, num_bytes: int | None) -> Callable[[], None]:
        """What fetches a file from its start when it is called."""
        return lambda: self._fetch(name, to)

    def _fetch(self, name: str, to: PartFile) -> None:
        from streaming.base.storage.download import CloudDownloader

        to.path.unlink(missing_ok=True)  # It would be taken for the whole file.
        CloudDownloader.direct_download(self.address(name), str(to.path), part_file.SILENCE_S)
        to.check(to.path.stat().st_size)

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """Raise ``NotFetched``: only whole files can be had of these stores."""
        raise NotFetched(
            "only whole files can be fetched from there; mount the store, or serve it over S3 or "
            "HTTP",
            final=True,
        )
