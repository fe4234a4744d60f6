"""Zarr over HTTP: a silent or endless server is left, and passwords are not shown."""

import contextlib
import http.server
import threading
import time

import pytest

from jest_loader.adapters.zarr import ZarrSource, over_http


@pytest.fixture
def server():
    """Starts a server that answers each request with a function; returns its URL."""
    started = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # The client has gone.
                    answer(self.wfile)

            def log_message(self, *_):
                pass

        one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, daemon=True).start()
        started.append(one)
        return f"http://127.0.0.1:{one.server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.socket.close()


def test_a_silent_server_is_left(server, monkeypatch):
    monkeypatch.setattr(over_http, "SILENCE_S", 0.3)
    start = time.monotonic()
    with pytest.raises(ValueError, match="path must be a Zarr group"):
        ZarrSource(server(lambda _: threading.Event().wait(20)), batch_size=1, columns=["x"])
    assert time.monotonic() - start < 10


def test_an_endless_description_stops_and_its_signature_is_hidden(server, monkeypatch):
    monkeypatch.setattr(over_http, "MOST_BYTES", 1 << 20)

    def endless(file):
        while True:
            file.write(bytes(1 << 16))

    url = server(endless).replace("//", "//me:secret@") + "/data"
    with pytest.raises(ValueError, match=r"longer than 1048576 bytes") as caught:
        ZarrSource(url, batch_size=1, columns=["x"])
    assert "secret" not in str(caught.value)
