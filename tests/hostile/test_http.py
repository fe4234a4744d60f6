"""A server that is slow, silent, endless or wrong neither fills the disk nor is waited for."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from jest_loader.adapters.fetching import RemoteFolder, part_file, remote
from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.checks import without_secrets
from jest_loader.pack import write_mds

DATA = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(part_file, "SILENCE_S", 0.3)
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def server():
    """Starts a server that answers each request with a function; returns its URL and requests."""
    started = []

    def start(answer):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append((self.path, dict(self.headers)))
                with contextlib.suppress(OSError):  # The client has gone.
                    answer(self, len(requests))

            def log_message(self, *_):
                pass

        one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, daemon=True).start()
        started.append(one)
        return f"http://127.0.0.1:{one.server_port}", requests

    yield start
    for one in started:
        one.shutdown()
        one.socket.close()


def send(handler, status, body=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def endless(handler, block=DATA):
    while True:
        handler.wfile.write(block)


def folder(url, tmp_path):
    found = RemoteFolder(url, tmp_path / "local")
    found.set_sizes({"shard.0": len(DATA)})
    return found


def fetch_fails(found, message, name="shard.0"):
    with pytest.raises(OSError, match=message) as caught:
        found.fetch(name)
    assert list(found.local.iterdir()) == [], "nothing is left"
    return str(caught.value)


def without_length(handler, _):
    send(handler, 200)
    endless(handler)


def with_another_length(handler, _):
    send(handler, 200, DATA + b"x", Content_Length=str(len(DATA) + 1))


@pytest.mark.parametrize("answer", [without_length, with_another_length])
def test_a_body_longer_than_the_index_says_stops(answer, server, tmp_path):
    url, requests = server(answer)
    fetch_fails(folder(url, tmp_path), f"longer than the {len(DATA)} bytes")
    assert len(requests) == 1, "another attempt would not help"


def test_an_endless_index_stops(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "MOST_INDEX_BYTES", 1 << 20)
    url, _ = server(without_length)
    fetch_fails(folder(url, tmp_path), "longer than the 1048576 bytes", "index.json")


def test_an_encoded_body_is_not_inflated(server, tmp_path):
    def answer(handler, _):
        send(handler, 200, b"\x1f\x8b", Content_Encoding="gzip", Content_Length="2")

    url, _ = server(answer)
    fetch_fails(folder(url, tmp_path), "sent as gzip, for which was not asked")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirection_to_another_scheme_is_refused(target, server, tmp_path):
    url, requests = server(lambda handler, _: send(handler, 302, Location=target))
    fetch_fails(folder(url, tmp_path), "cannot be fetched: the server")
    assert len(requests) == 1


def test_a_redirections_endless_body_is_not_read(server, tmp_path):
    def answer(handler, count):
        if count == 1:
            send(handler, 302, Location="/elsewhere")
            endless(handler)
        send(handler, 200, DATA)

    url, _ = server(answer)
    assert folder(url, tmp_path).fetch("shard.0").read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "attempts"), [(304, 1), (403, 1), (404, 1), (206, 3), (500, 3), (503, 3)]
)
def test_a_status_that_brings_no_file_is_named(status, attempts, server, tmp_path):
    url, requests = server(lambda handler, _: send(handler, status))
    fetch_fails(folder(url, tmp_path), f"the server answers {status}")
    assert len(requests) == attempts


def test_a_server_that_asks_to_wait_is_waited_for_and_not_long(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def answer(handler, count):
        if count < 3:
            return send(handler, 503, Retry_After=("7", "999999999")[count - 1])
        return send(handler, 200, DATA)

    folder(server(answer)[0], tmp_path).fetch("shard.0")
    assert waits == [7, 60]


def test_a_server_that_falls_silent_is_left(server, tmp_path):
    def answer(handler, _):
        send(handler, 200, DATA[:1000], Content_Length=str(len(DATA)))
        handler.wfile.flush()
        threading.Event().wait(5)

    start = time.monotonic()
    fetch_fails(folder(server(answer)[0], tmp_path), "timed out")
    assert time.monotonic() - start < 4


def test_a_trickle_counts_as_silence(server, tmp_path):
    def answer(handler, _):
        send(handler, 200, Content_Length=str(len(DATA)))
        for _ in range(100):
            handler.wfile.write(b"x")
            threading.Event().wait(0.05)

    fetch_fails(folder(server(answer)[0], tmp_path), "bytes arrived in")


def test_a_slow_body_may_take_longer_than_any_silence(server, tmp_path):
    def answer(handler, _):
        send(handler, 200, Content_Length=str(len(DATA)))
        for start in range(0, len(DATA), 1 << 18):
            handler.wfile.write(DATA[start : start + (1 << 18)])
            threading.Event().wait(0.1)

    assert folder(server(answer)[0], tmp_path).fetch("shard.0").read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_an_attempt_goes_on_where_the_last_one_stopped(ranges, server, tmp_path):
    def answer(handler, count):
        asked = handler.headers.get("Range")
        half = len(DATA) // 2
        if count == 1:
            return send(handler, 200, DATA[:half], Content_Length=str(len(DATA)), ETag='"1"')
        assert asked == f"bytes={half}-"
        assert handler.headers["If-Range"] == '"1"'
        if not ranges:
            return send(handler, 200, DATA, ETag='"2"')
        where = f"bytes {half}-{len(DATA) - 1}/{len(DATA)}"
        return send(handler, 206, DATA[half:], Content_Range=where)

    url, requests = server(answer)
    assert folder(url, tmp_path).fetch("shard.0").read_bytes() == DATA
    assert len(requests) == 2


def test_a_file_that_cannot_be_told_apart_is_fetched_from_its_start(server, tmp_path):
    def answer(handler, count):
        assert "Range" not in handler.headers
        body = DATA if count == 3 else DATA[: len(DATA) // 2]
        send(handler, 200, body, Content_Length=str(len(DATA)))

    assert folder(server(answer)[0], tmp_path).fetch("shard.0").read_bytes() == DATA


def test_a_body_that_is_too_short_is_an_error(server, tmp_path):
    url, _ = server(lambda handler, _: send(handler, 200, b"short", Content_Length="5"))
    fetch_fails(folder(url, tmp_path), f"ends after 5 of {len(DATA)} bytes")


def test_a_page_in_place_of_the_index_leaves_what_was_fetched(server, tmp_path):
    write_mds(tmp_path / "data", {"v": "str"}, [{"v": str(n)} for n in range(60)])
    is_login_page = threading.Event()

    def answer(handler, _):
        if is_login_page.is_set():
            return send(handler, 200, b"<html>Log in</html>")
        return send(handler, 200, (tmp_path / "data" / handler.path[1:]).read_bytes())

    stream = MdsStream(server(answer)[0], local=tmp_path / "local")
    assert len(list(MdsSource(stream, batch_size=60))) == 1
    before = sorted(path.name for path in stream.local.iterdir())
    is_login_page.set()
    with pytest.raises(ValueError, match=r"^http://[0-9.:]+/index.json is not an MDS index"):
        MdsSource(stream, batch_size=60)
    assert sorted(path.name for path in stream.local.iterdir()) == before
    assert json.loads((stream.local / "index.json").read_text())["shards"]


def test_a_full_disk_is_an_error_with_the_path(server, tmp_path, monkeypatch):
    url, requests = server(lambda handler, _: send(handler, 200, DATA))

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def tell(self):
            return 0

    write = part_file.PartFile.write
    monkeypatch.setattr(
        part_file.PartFile, "write", lambda self, _, block: write(self, Full(), block)
    )
    fetch_fails(folder(url, tmp_path), r"local/.*/shard.0 cannot be written \(No space left")
    assert len(requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        "https://me:secret@host/data/x",
        "https://secret@host/data",
        "sftp://me:sec@secret@host/data",
        "http://host/data?sig=secret&x=secret",
        "http://host/data?secret",
        "Max retries exceeded with url: /data?sig=secret (Caused by x)",
    ],
)
def test_passwords_and_signatures_are_hidden(text):
    hidden = without_secrets(f"see {text}, please")
    assert "secret" not in hidden
    assert "***" in hidden
    assert "data" in hidden


def test_a_password_is_sent_and_not_shown(server, tmp_path):
    def answer(handler, _):
        send(handler, 200 if handler.path.endswith("?sig=hidden") else 404, DATA)

    url, requests = server(answer)
    address = url.replace("//", "//me:secret@") + "/a?sig=hidden"
    found = folder(address, tmp_path)
    assert found.fetch("shard.0").read_bytes() == DATA
    assert requests[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"
    with pytest.raises(OSError, match="shard") as caught:
        folder(url.replace("//", "//me:secret@") + "/a?sig=wrong", tmp_path / "2").fetch("shard.0")
    assert "secret" not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_a_local_remote_stops_at_its_length_too(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "shard.0").write_bytes(DATA * 2)
    for address in (str(tmp_path / "far"), f"file://{tmp_path}/far"):
        fetch_fails(folder(address, tmp_path), "longer than the")
