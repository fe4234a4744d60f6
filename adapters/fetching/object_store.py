"""A folder of an object store, read by obstore: no wait in silence, one sentence for a fault.

Credentials come from where boto3 finds them: the environment, profiles, the machine's role. The
endpoint is that of ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``. Without credentials requests
are not signed, as public buckets allow.
"""

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jest_loader.adapters.fetching import part_file
from jest_loader.adapters.fetching.part_file import PASSING, FileRange, NotFetched, PartFile
from jest_loader.checks import shown, without_secrets

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEMES = ("s3://",)
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "MovedPermanently": "the bucket is in another region; set AWS_REGION to it",
}
_used_by: int | None = None  # The process whose threads serve obstore's requests.


class ObjectFolder:
    """The objects whose names begin with that of a folder.

    Args:
        url: ``s3://bucket/folder``.
        num_retries: How often obstore makes a request again that failed in passing.
    """

    def __init__(self, url: str, *, num_retries: int = 0) -> None:
        self.url = url.rstrip("/")
        self._num_retries = num_retries
        self._store: S3Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Credentials are found anew where it is unpickled.
        return {**self.__dict__, "_store": None}

    def address(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    @property
    def store(self) -> "S3Store":
        """What obstore takes.

        Raises:
            ModuleNotFoundError: if obstore is not installed.
            NotFetched: if the process was forked from one that has used a store.
        """
        global _used_by
        if (_used_by or os.getpid()) != os.getpid():
            raise NotFetched(
                "an object store cannot be read in a process that was forked from one that has "
                "read a store; start workers with multiprocessing_context='forkserver' or 'spawn'",
                final=True,
            )
        _used_by = os.getpid()
        if self._store is None:
            self._store = _opened(self.url, self._num_retries)
        return self._store

    def attempt(self, name: str, to: PartFile, num_bytes: int | None) -> Callable[[], None]:
        """What fetches an object when it is called, and goes on when it is called again."""
        return _Object(self, name, to, num_bytes).attempt

    def read_range(self, name: str, start: int, stop: int) -> FileRange:
        """The bytes of an object from ``start`` to before ``stop``.

        Raises:
            NotFetched: if they cannot be had.
        """
        found = self.get(name, {"range": (start, stop)})
        num_bytes = found.meta["size"]
        wanted = min(stop, num_bytes) - start
        data = b"".join(_bounded(found, wanted))
        if len(data) < wanted:
            raise NotFetched(f"it ends after {start + len(data)} of {num_bytes} bytes")
        return FileRange(data, num_bytes, found.meta["e_tag"])

    def get(self, name: str, options: dict[str, Any]) -> Any:
        """Obstore's answer to a request.

        Raises:
            NotFetched: if there is none.
        """
        import_obstore()
        import obstore

        store = self.store
        try:
            return obstore.get(store, name, options=options)  # type: ignore[arg-type, unused-ignore]
        except Exception as error:  # obstore's are of many kinds.
            raise not_fetched(error) from None


class _Object:
    """An object, and how much of it has arrived."""

    def __init__(
        self, folder: ObjectFolder, name: str, to: PartFile, num_bytes: int | None
    ) -> None:
        self._folder = folder
        self._name = name
        self._to = to
        self._num_bytes = num_bytes
        self._version: str | None = None  # What the store calls the object's present content.

    def attempt(self) -> None:
        """Fetch what is missing of it.

        Raises:
            NotFetched: if that fails.
        """
        with self._to.path.open("ab", buffering=0) as file:
            if not self._version:
                file.truncate(0)
            start = file.tell() if self._version else 0
            options = {"range": {"offset": start}, "if_match": self._version} if start else {}
            try:
                found = self._folder.get(self._name, options)
            except NotFetched as error:
                if error.status in (412, 416):  # It is another object by now.
                    self._version = None
                raise
            self._to.check(found.meta["size"])
            self._version = found.meta["e_tag"]
            self._to.copy(_blocks(found), file)
            wanted = found.meta["size"] if self._num_bytes is None else self._num_bytes
            if file.tell() < wanted:
                raise NotFetched(f"it ends after {file.tell()} of {wanted} bytes")


def import_obstore() -> None:
    """Raise a ``ModuleNotFoundError`` that says what to install unless obstore can be imported."""
    try:
        import boto3  # noqa: F401
        import obstore  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "obstore"):
            raise
        raise ModuleNotFoundError(
            f"reading an object store needs {error.name}; pip install 'jest-loader[stores]'",
            name=error.name,
        ) from error


def not_fetched(error: Exception) -> NotFetched:
    """What obstore says of a failure, in one sentence."""
    if isinstance(error, NotFetched):
        return error
    text, _, details = str(error).partition("\n\nDebug source")
    status = re.search(r"status code: (\d{3})", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    number = int(status[1]) if status else 404 if isinstance(error, FileNotFoundError) else None
    if number is None:
        if "TimedOut" in details:
            return NotFetched(f"nothing arrived in {part_file.SILENCE_S:.0f} s")
        return NotFetched(
            shown(
                without_secrets(text.rpartition(" - ")[2].removeprefix("Generic S3 error: ")),
                most=300,
            )
        )
    answer = f"the store answers {number}"
    if code:
        answer += f" {code[1]}"
        if code[1] in _REMEDIES:
            answer += f": {_REMEDIES[code[1]]}"
    return NotFetched(answer, final=number < 500 and number not in {*PASSING, 412}, status=number)


def _blocks(found: Any) -> Iterator[bytes]:
    blocks = iter(found.stream(min_chunk_size=1))
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:  # obstore's are of many kinds.
            raise not_fetched(error) from None
        if block is None:
            return
        yield bytes(block)


def _bounded(found: Any, most_bytes: int) -> Iterator[bytes]:
    left = most_bytes
    for block in _blocks(found):
        yield block[:left]
        left -= len(block)
        if left <= 0:
            return


def _opened(url: str, num_retries: int) -> "S3Store":
    import_obstore()
    from boto3.session import Session
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    session = Session()
    signed = session.get_credentials() is not None
    try:
        return S3Store.from_url(
            url,
            credential_provider=Boto3CredentialProvider(session) if signed else None,
            skip_signature=not signed,
            client_options={
                "allow_http": True,  # Only an endpoint that says so is asked without encryption.
                "connect_timeout": timedelta(seconds=part_file.SILENCE_S),
                "read_timeout": timedelta(seconds=part_file.SILENCE_S),
                "timeout": timedelta(days=1),  # obstore's own would end a long download.
            },
            retry_config={
                "max_retries": num_retries,
                "retry_timeout": timedelta(seconds=3 * part_file.SILENCE_S),
            },
        )
    except Exception as error:  # obstore's are of many kinds.
        raise NotFetched(
            f"it is no address of an object store ({shown(without_secrets(error), most=200)})",
            final=True,
        ) from None
