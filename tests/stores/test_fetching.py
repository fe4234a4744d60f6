"""Objects of a store as local files: what goes wrong is told once, without secrets, and in time."""

import os
import pickle
import sys
import threading
import time

import pytest
import requests

from jest_loader.adapters.fetching import RemoteFolder
from tests.stores import faults
from tests.stores.conftest import BUCKET

DATA = bytes(range(256)) * 16384  # 4 MiB
URL = f"s3://{BUCKET}/shards"


@pytest.fixture
def stored(s3):
    s3.put_object(Bucket=BUCKET, Key="shards/shard.0", Body=DATA)


def folder(tmp_path, url=URL):
    found = RemoteFolder(url, tmp_path / "local")
    found.set_sizes({"shard.0": len(DATA)})
    return found


def fails(found, message, name="shard.0"):
    start = time.monotonic()
    with pytest.raises(OSError, match=message) as caught:
        found.fetch(name)
    assert time.monotonic() - start < 15, "it does not hang"
    text = str(caught.value)
    assert text.startswith(f"s3://{found.remote.removeprefix('s3://')}/{name} cannot be fetched: ")
    assert "\n" not in text
    assert "hidden" not in text
    assert "mine" not in text
    assert [path.name for path in found.local.iterdir()] == [], "nothing is left"


def test_an_object_is_fetched_once(stored, proxy, tmp_path):
    found = folder(tmp_path)
    assert found.fetch("shard.0").read_bytes() == DATA
    assert found.fetch("shard.0").read_bytes() == DATA
    assert len(proxy.requests) == 1
    assert "mine/" in proxy.requests[0][1]["authorization"]


def test_a_part_of_an_object_is_read_alone(stored, proxy, tmp_path):
    found = folder(tmp_path).read_range("shard.0", 1000, 3000)
    assert found.data == DATA[1000:3000]
    assert found.num_bytes == len(DATA)
    assert found.version
    assert [headers["range"] for _, headers in proxy.requests] == ["bytes=1000-2999"]
    assert folder(tmp_path).read_range("shard.0", len(DATA) - 5, len(DATA) + 5).data == DATA[-5:]


def test_a_bucket_that_is_not_there_is_named(s3, tmp_path):
    fails(
        folder(tmp_path, "s3://no-such-bucket/shards"),
        r"the store answers 404 NoSuchBucket: there is no such bucket; check the address",
    )


def test_an_object_that_is_not_there_is_named(stored, proxy, tmp_path):
    fails(folder(tmp_path), "404 NoSuchKey: there is no such object", "shard.1")
    assert len(proxy.requests) == 1, "another attempt would not help"


def test_a_key_that_the_store_does_not_know_is_refused(stored, moto, tmp_path):
    requests.post(f"{moto}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        fails(folder(tmp_path), "the store answers 403 InvalidAccessKeyId; check the address, the")
    finally:
        requests.post(f"{moto}/moto-api/reset-auth", data=b"1e9", timeout=10)


FAULTS = {
    "denied": (faults.status(403, faults.ACCESS_DENIED), "the store answers 403 AccessDenied", 1),
    "broken": (faults.status(500), "the store answers 500", 3),
    "redirected": (faults.status(301), "region", None),
    "silent": (faults.silent, "nothing arrived in 1 s", 3),
    "silent in its body": (faults.silent_in_its_body, "nothing arrived in 1 s", None),
    "cut": (faults.cut, "cannot be fetched: HTTP error: ", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_ends_a_fetch_is_one_sentence_in_time(fault, stored, proxy, tmp_path):
    proxy.fault, message, num_requests = FAULTS[fault]
    fails(folder(tmp_path), message)
    if num_requests is not None:
        assert len(proxy.requests) == num_requests


@pytest.mark.parametrize("times", [1, 2])
def test_a_store_that_is_busy_is_asked_again(times, stored, proxy, tmp_path):
    proxy.fault = faults.unavailable_at_first(times)
    assert folder(tmp_path).fetch("shard.0").read_bytes() == DATA


def test_a_fetch_goes_on_where_it_was_cut(stored, proxy, tmp_path):
    proxy.fault = faults.cut_at_first
    assert folder(tmp_path).fetch("shard.0").read_bytes() == DATA
    (_, first), (_, second) = proxy.requests
    assert "range" not in first
    start = int(second["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= len(DATA) // 2
    assert second["if-match"]


def test_an_object_that_changes_on_the_way_is_fetched_anew(stored, s3, proxy, tmp_path):
    other = DATA[::-1]

    def fault(handler, count):
        if count == 1:
            faults.cut(handler, count)
            s3.put_object(Bucket=BUCKET, Key="shards/shard.0", Body=other)
        return count == 1

    proxy.fault = fault
    assert folder(tmp_path).fetch("shard.0").read_bytes() == other


def test_an_object_longer_than_the_index_says_stops(stored, tmp_path):
    found = RemoteFolder(URL, tmp_path / "local")
    found.set_sizes({"shard.0": 1000})
    fails(found, "it is longer than the 1000 bytes allowed")


def test_a_trickle_counts_as_silence(stored, proxy, tmp_path):
    def fault(handler, _):
        status, headers, body = handler.store_answer()
        handler.send_response(status)
        handler.send_header("Content-Length", headers["content-length"])
        handler.send_header("Last-Modified", headers["last-modified"])
        handler.end_headers()
        for byte in body:
            handler.wfile.write(bytes([byte]))
            threading.Event().wait(0.05)
        return True

    proxy.fault = fault
    fails(folder(tmp_path), r"only \d+ bytes arrived in 1 s")


def test_without_credentials_requests_are_not_signed(s3, proxy, tmp_path, monkeypatch):
    s3.put_object(Bucket=BUCKET, Key="shards/shard.0", Body=DATA, ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder(tmp_path).fetch("shard.0").read_bytes() == DATA
    assert "authorization" not in proxy.requests[0][1]


def test_credentials_of_a_profile_are_used(stored, proxy, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = theirs\naws_secret_access_key = hidden\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    folder(tmp_path).fetch("shard.0")
    assert "theirs/" in proxy.requests[0][1]["authorization"]


def test_no_credentials_are_pickled(stored, tmp_path):
    found = folder(tmp_path)
    found.read_range("shard.0", 0, 10)
    kept = pickle.dumps(found)
    assert b"hidden" not in kept
    assert pickle.loads(kept).fetch("shard.0").read_bytes() == DATA


def test_a_forked_process_is_told_rather_than_left_to_wait(stored, tmp_path):
    found = folder(tmp_path)
    found.read_range("shard.0", 0, 10)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            found.fetch("shard.0")
        except OSError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        text = told.read().decode()
    os.waitpid(child, 0)
    assert "start workers with multiprocessing_context='forkserver' or 'spawn'" in text


def test_what_is_missing_is_named_with_the_install_line(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs obstore; pip install 'jest-loader\[sto"):
        folder(tmp_path).fetch("shard.0")


def test_an_address_without_a_bucket_is_refused(s3, tmp_path):
    with pytest.raises(OSError, match=r"s3:///x/shard.0 cannot be fetched: it is no address of an"):
        folder(tmp_path, "s3:///x").fetch("shard.0")
