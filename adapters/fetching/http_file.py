"""One file fetched over HTTP: no longer than it may be, slowly if need be, but not in silence.

The bytes are taken as they are sent and never inflated. The body of a redirection or of an error is
not read. Another attempt goes on where the last one ended, if the server can and says that the file
is still the same.
"""

import base64
import re
from collections.abc import Callable
from functools import partial
from http.client import HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from jest_loader.adapters.fetching import part_file
from jest_loader.adapters.fetching.part_file import PASSING, FileRange, NotFetched, PartFile
from jest_loader.checks import shown, without_secrets
from jest_loader.version import __version__

_BLOCK_BYTES = 1 << 18
_MOST_WAIT_S = 60.0


class HttpFile:
    """A file behind HTTP, and how much of it has arrived.

    Args:
        url: Its address, with a user and password if it needs them.
        to: The file to write.
        num_bytes: How many bytes it has; None if that is not known.
    """

    def __init__(self, url: str, to: PartFile, num_bytes: int | None) -> None:
        self._url = url
        self._to = to
        self._num_bytes = num_bytes
        self._version: str | None = None  # What the server calls the file's present content.

    def attempt(self) -> None:
        """Fetch what is missing of it.

        Raises:
            NotFetched: if the server sends something else.
            Exception: whatever the connection raises.
        """
        with self._to.path.open("ab", buffering=0) as file:
            start = file.tell() if self._version else 0
            request = _request(self._url)
            if start:
                request.add_header("Range", f"bytes={start}-")
                request.add_header("If-Range", str(self._version))
            with self._answer(request) as response:
                file.truncate(self._start(response, start))
                file.seek(0, 2)
                self._check_length(response, file.tell())
                self._version = _version(response.headers)
                self._copy(response, file)
            if self._num_bytes is not None and file.tell() < self._num_bytes:
                raise NotFetched(f"it ends after {file.tell()} of {self._num_bytes} bytes")

    def _answer(self, request: Request) -> Any:
        try:
            return _answer(request)
        except NotFetched as error:
            if error.status == 416:
                self._version = None
            raise

    def _start(self, response: Any, asked: int) -> int:
        """Where in the file the answer begins."""
        if response.status == 200:
            return 0
        found = response.headers.get("Content-Range", "")
        if asked and response.status == 206 and found.startswith(f"bytes {asked}-"):
            return asked
        self._version = None
        raise NotFetched(f"the server answers {response.status} with what was not asked for")

    def _check_length(self, response: Any, start: int) -> None:
        length = None if response.length is None else start + response.length
        if length is not None:
            self._to.check(length)
        encoding = response.headers.get("Content-Encoding", "identity")
        # A file that is stored compressed may be called encoded: then it has its own length.
        if encoding.lower() != "identity" and (length is None or length != self._num_bytes):
            raise NotFetched(
                f"it is sent as {shown(encoding)}, for which was not asked", final=True
            )

    def _copy(self, response: Any, file: IO[bytes]) -> None:
        self._to.copy(iter(partial(response.read1, _BLOCK_BYTES), b""), file)
        if response.length:
            raise NotFetched(f"the connection ended {response.length} bytes before the file's end")


class HttpFolder:
    """The files behind a URL.

    Args:
        url: The folder's, with a user and password if it needs them.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def address(self, name: str) -> str:
        """The URL of a file."""
        return file_url(self._url, name)

    def attempt(self, name: str, to: PartFile, num_bytes: int | None) -> Callable[[], None]:
        """What fetches a file when it is called, and goes on when it is called again."""
        return HttpFile(self.address(name), to, num_bytes).attempt

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """The bytes of a file from ``start`` to before ``stop``.

        Raises:
            NotFetched: if the server sends something else.
            Exception: whatever the connection raises.
        """
        request = _request(self.address(name))
        request.add_header("Range", f"bytes={start}-{stop - 1}")
        with _answer(request) as response:
            found = re.fullmatch(
                r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", response.headers.get("Content-Range", "")
            )
            if response.status != 206 or not found or int(found[1]) != start:
                raise NotFetched(
                    f"the server answers {response.status} in place of a part of the file; "
                    "copy the files to a folder, or to a server that answers ranges",
                    final=True,
                )
            wanted = min(stop, int(found[3])) - start
            data = response.read(wanted)
            if len(data) < wanted:
                raise NotFetched(f"it ends after {start + len(data)} of {found[3]} bytes")
            return FileRange(data, int(found[3]), _version(response.headers))


def _answer(request: Request) -> Any:
    """The server's answer, if it is no error."""
    try:
        return build_opener(_Redirections()).open(request, timeout=part_file.SILENCE_S)
    except HTTPError as error:
        error.close()  # Unread: the body may be endless.
        wait = error.headers.get("Retry-After", "")
        raise NotFetched(
            f"the server answers {error.code} {shown(without_secrets(error.reason))}",
            final=error.code < 500 and error.code not in PASSING,
            wait_s=min(float(wait), _MOST_WAIT_S) if wait.isdecimal() else 0.0,
            status=error.code,
        ) from None


class _Redirections(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()  # Unread: the body may be endless.
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise NotFetched(
                f"the server sends on to {shown(without_secrets(newurl))}, which is not "
                f"{' or '.join(allowed)}",
                final=True,
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str) -> Request:
    """A request for the file as it is stored, with the user and password that the URL has."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = Request(
        urlunsplit(parts._replace(netloc=host, fragment="")),
        headers={"Accept-Encoding": "identity", "User-Agent": f"jest-loader/{__version__}"},
    )
    if user:
        name, _, password = user.partition(":")
        words = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        # Not sent on to another address.
        request.add_unredirected_header("Authorization", f"Basic {words}")
    return request


def _version(headers: HTTPMessage) -> str | None:
    """What identifies the file's content at the server, if anything does."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def file_url(folder: str, name: str) -> str:
    """The URL of a file in a folder; a query, such as a signature, stays behind the path."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
