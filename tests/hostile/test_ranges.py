"""A part of a remote file is that part, or an error that says what the server did."""

import contextlib
import http.server
import threading

import pytest

from jest_loader.adapters.fetching import RemoteFolder

DATA = bytes(range(256)) * 40


@pytest.fixture
def url():
    """A server that answers ranges of a file named ``parts``, and those of others otherwise."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            body = DATA[first : last + 1]
            self.send_response(200 if self.path == "/whole" else 206)
            if self.path == "/elsewhere":
                first += 1
            size = len(body) + (self.path == "/cut")
            self.send_header("Content-Range", f"bytes {first}-{first + size - 1}/{len(DATA)}")
            self.send_header("ETag", '"1"')
            self.end_headers()
            with contextlib.suppress(OSError):  # The client has gone.
                self.wfile.write(body[:-1] if self.path == "/cut" else body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("jest_loader.adapters.fetching.remote.time.sleep", lambda _: None)


def test_a_part_of_a_file_over_http(url, tmp_path):
    found = RemoteFolder(url, tmp_path).read_range("parts", 1000, 3000)
    assert (found.data, found.num_bytes, found.version) == (DATA[1000:3000], len(DATA), '"1"')


def test_a_part_that_goes_beyond_the_end_is_shorter(url, tmp_path):
    (tmp_path / "parts").write_bytes(DATA)
    for remote in (url, str(tmp_path)):
        found = RemoteFolder(remote, tmp_path / "local").read_range("parts", 10000, 11000)
        assert found.data == DATA[10000:]
        assert found.num_bytes == len(DATA)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whole", "the server answers 200 in place of a part of the file; copy"),
        ("elsewhere", "the server answers 206 in place of a part of the file; copy"),
        ("cut", "it ends after 2999 of 10240 bytes"),
    ],
)
def test_an_answer_that_is_not_the_part_is_an_error(name, message, url, tmp_path):
    with pytest.raises(OSError, match=rf"/{name} cannot be fetched: {message}"):
        RemoteFolder(url, tmp_path).read_range(name, 1000, 3000)


def test_a_part_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"none cannot be fetched: there is no such file"):
        RemoteFolder(str(tmp_path), tmp_path / "local").read_range("none", 0, 10)
