"""An S3 server on loopback, and a proxy before it that fails as it is told."""

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jest_loader.adapters.fetching import part_file

BUCKET = "data"


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of moto's server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of silence is enough, and nothing is waited for between attempts."""
    monkeypatch.setattr(part_file, "SILENCE_S", 1.0)
    monkeypatch.setattr("jest_loader.adapters.fetching.remote.time.sleep", lambda _: None)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment, as boto3 finds them."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def s3(moto: str, credentials: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, with an empty bucket; the environment names the server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    return client


@pytest.fixture
def upload(s3: Any) -> Callable[[Path], str]:
    """Puts a folder into the bucket; returns its URL."""

    def put(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{folder.name}/{path.relative_to(folder).as_posix()}"
                # So that it is read over HTTP too, without a signature.
                s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes(), ACL="public-read")
        return f"s3://{BUCKET}/{folder.name}"

    return put


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to the store, if ``fault(handler, count)`` does not answer them itself.

    ``requests`` lists the path and headers of those that came.
    """

    daemon_threads = True
    fault: Callable[[http.server.BaseHTTPRequestHandler, int], bool] = staticmethod(
        lambda handler, count: False
    )

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(behind).netloc
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Proxy)
        self.server.requests.append((self.path, dict(self.headers)))
        with contextlib.suppress(OSError):  # The client has gone.
            if not self.server.fault(self, len(self.server.requests)):
                status, headers, body = self.store_answer()
                self.answer(status, body, headers)

    do_HEAD = do_GET

    def store_answer(self) -> tuple[int, dict[str, str], bytes]:
        assert isinstance(self.server, Proxy)
        connection = http.client.HTTPConnection(self.server.behind, timeout=10)
        connection.request(self.command, self.path, headers=dict(self.headers))
        found = connection.getresponse()
        headers = {name.lower(): value for name, value in found.getheaders()}
        body = found.read()
        connection.close()
        return found.status, headers, body

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        headers = {"content-length": str(len(body)), **headers}
        for name, value in headers.items():
            if name not in ("date", "server", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy(s3: Any, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy, which the environment names as the store."""
    server = Proxy(moto)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()
