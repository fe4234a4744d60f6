"""Zarr groups in an S3 bucket, and over HTTP: a fault is not taken for a chunk that is missing."""

import pickle
import time

import numpy as np
import pytest

from jest_loader.adapters.zarr import ZarrSource, stored_group
from jest_loader.pack import write_zarr
from tests.stores import faults
from tests.stores.conftest import BUCKET

NUM_ROWS = 100


@pytest.fixture
def group(tmp_path):
    rows = [{"n": np.int64(n), "text": f"row {n}"} for n in range(NUM_ROWS)]
    write_zarr(tmp_path / "group", {"n": "int64", "text": "str"}, rows, chunk_rows=64)
    return tmp_path / "group"


@pytest.fixture
def url(group, upload):
    return upload(group)


@pytest.fixture(params=["s3", "http"])
def faulty(request, group, url, proxy):
    """A URL of the group, and the proxy that it is behind."""
    if request.param == "s3":
        return url, proxy
    return f"{proxy.url}/{BUCKET}/group", proxy


def numbers(source):
    return [n for batch in source for n in batch["n"].tolist()]


def fails(call, message):
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert time.monotonic() - start < 20, "it does not hang"
    assert "hidden" not in str(caught.value)
    assert "mine" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_group_in_a_bucket_reads_as_one_here(group, url):
    here, there = (ZarrSource(path, batch_size=10, seed=3) for path in (group, url))
    for mine, theirs in zip(here, there, strict=True):
        assert mine["n"].tolist() == theirs["n"].tolist()
        assert theirs["text"] == [f"row {n}" for n in mine["n"].tolist()]
    assert here.fingerprint() == there.fingerprint()


def test_a_source_of_a_bucket_is_pickled_without_keys(url):
    source = ZarrSource(url, batch_size=10)
    kept = pickle.dumps(source)
    assert b"hidden" not in kept
    assert numbers(pickle.loads(kept)) == numbers(source)


def test_parts_of_shards_are_read(tmp_path, upload):
    import zarr

    group = zarr.open_group(tmp_path / "sharded", mode="w")
    group.create_array("n", data=np.arange(NUM_ROWS), chunks=(10,), shards=(50,))
    source = ZarrSource(upload(tmp_path / "sharded"), batch_size=10)
    assert sorted(numbers(source)) == list(range(NUM_ROWS))


@pytest.mark.parametrize("status", [403, 500])
def test_an_answer_that_is_an_error_is_not_a_missing_chunk(status, faulty):
    url, proxy = faulty
    proxy.fault = faults.of("n/c/1", faults.status(status))
    fails(lambda: ZarrSource(url, batch_size=10), rf"n/c/1 in .* cannot be used: .*{status}")
    proxy.fault = faults.of("n/c/0", faults.status(status))
    fails(
        lambda: numbers(ZarrSource(url, batch_size=10)),
        rf"rows 0 to 63 of array 'n' in .* cannot be read: .*{status}",
    )


def test_a_missing_chunk_is_told_as_such(faulty, s3):
    url, _ = faulty
    s3.delete_object(Bucket=BUCKET, Key="group/n/c/0")
    fails(lambda: numbers(ZarrSource(url, batch_size=10)), "cannot be read: .*n/c/0 is missing")
    s3.delete_object(Bucket=BUCKET, Key="group/n/c/1")
    fails(lambda: ZarrSource(url, batch_size=10), "must have 2 chunks: c/1 is missing")


@pytest.mark.parametrize("status", [403, 500])
def test_a_description_that_is_denied_is_not_a_missing_one(status, faulty):
    url, proxy = faulty
    proxy.fault = faults.of("n/zarr.json", faults.status(status))
    fails(lambda: ZarrSource(url, batch_size=10), rf"n/zarr.json in .* cannot be used: .*{status}")


def test_a_bucket_that_is_not_there_is_named(s3):
    fails(
        lambda: ZarrSource("s3://no-such-bucket/group", batch_size=10),
        "path must be a Zarr group, got 's3://no-such-bucket/group': .*NoSuchBucket",
    )


def test_a_group_that_is_not_there_is_named(s3):
    fails(lambda: ZarrSource("s3://data/none", batch_size=10), "got 's3://data/none'")


FAULTS = {
    "silent": (faults.silent, "nothing arrived in 1 s"),
    "silent in its body": (faults.silent_in_its_body, ""),
    "cut": (faults.cut, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chunk_that_does_not_arrive_is_named(fault, url, proxy):
    answer, message = FAULTS[fault]
    proxy.fault = faults.of("n/c/0", answer)
    fails(
        lambda: numbers(ZarrSource(url, batch_size=10)),
        rf"rows 0 to 63 of array 'n' in s3://data/group cannot be read: .*{message}",
    )


def test_a_store_that_is_busy_is_asked_again(url, proxy):
    proxy.fault = faults.of("n/c/0", faults.unavailable_at_first(2))
    assert sorted(numbers(ZarrSource(url, batch_size=10, drop_last=False))) == list(range(NUM_ROWS))


def test_an_object_without_end_stops(url, monkeypatch):
    monkeypatch.setattr(stored_group, "MOST_BYTES", 100)
    fails(lambda: ZarrSource(url, batch_size=10), "it has more than 100 bytes")
