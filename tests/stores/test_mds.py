"""MDS shards in an S3 bucket read as those in a folder."""

import os

import numpy as np
import pytest

from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.pack import write_mds
from tests.processes import CONTEXT
from tests.stores import faults
from tests.stores.conftest import BUCKET

NUM_ROWS = 120


@pytest.fixture
def shards(tmp_path):
    rows = [{"n": n, "jpg": bytes([n]) * 100} for n in range(NUM_ROWS)]
    write_mds(tmp_path / "shards", {"n": "int", "jpg": "bytes"}, rows, shard_bytes=2000)
    return tmp_path / "shards"


def numbers(source):
    return [n for batch in source for n in batch["n"].tolist()]


def test_shards_of_a_bucket_read_as_those_here(shards, upload, tmp_path):
    here = MdsSource(shards, batch_size=10, seed=3)
    there = MdsSource(MdsStream(upload(shards), local=tmp_path / "local"), batch_size=10, seed=3)
    for mine, theirs in zip(here, there, strict=True):
        assert mine["n"].tolist() == theirs["n"].tolist()
        assert [*theirs["jpg"]] == [bytes([n]) * 100 for n in mine["n"].tolist()]


def test_resume_is_exact_from_a_bucket(shards, upload, tmp_path):
    url = upload(shards)
    source = MdsSource(MdsStream(url, local=tmp_path / "local"), batch_size=10)
    batches = iter(source)
    for _ in range(5):
        next(batches)
    state, rest = source.state_dict(), numbers(batches)
    resumed = MdsSource(MdsStream(url, local=tmp_path / "other"), batch_size=10)
    resumed.load_state_dict(state)
    assert numbers(resumed) == rest


def test_a_shard_that_is_not_in_the_bucket_is_named(shards, upload, s3, tmp_path):
    url = upload(shards)
    source = MdsSource(MdsStream(url, local=tmp_path / "local"), batch_size=10)
    s3.delete_object(Bucket=BUCKET, Key="shards/shard.00001.mds")
    with pytest.raises(OSError, match=r"s3://data/shards/shard.00001.mds cannot be .* NoSuchKey: "):
        numbers(source)


def test_a_shard_the_store_is_too_busy_for_is_asked_for_again(shards, upload, proxy, tmp_path):
    url = upload(shards)
    proxy.fault = faults.of("shard.00001.mds", faults.unavailable_at_first(2))
    source = MdsSource(MdsStream(url, local=tmp_path / "local"), batch_size=10)
    assert sorted(numbers(source)) == list(range(NUM_ROWS))


def test_a_bucket_without_an_index_is_named(s3, tmp_path):
    with pytest.raises(OSError, match=r"s3://data/none/index.json cannot be fetched: .* NoSuchKey"):
        MdsSource(MdsStream("s3://data/none", local=tmp_path / "local"), batch_size=10)


def _read_in_a_process(settings, url, local, limit_bytes, sent):
    os.environ.update(settings)  # Those of a server of processes are from before.
    most, found = 0, []
    stream = MdsStream(url, local=local, limit_bytes=limit_bytes)
    for batch in MdsSource(stream, batch_size=10, window_rows=20):
        found += batch["n"].tolist()
        most = max(most, sum(path.stat().st_size for path in local.glob("shard.*")))
    sent.send((sorted(found), most))


def test_two_processes_share_a_folder_of_limited_size(shards, upload, tmp_path):
    url, local = upload(shards), tmp_path / "local"
    sizes = [path.stat().st_size for path in shards.glob("shard.*")]
    limit = sum(sizes) // 2
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    processes = [
        CONTEXT.Process(target=_read_in_a_process, args=(settings, url, local, limit, sent))
        for _, sent in pipes
    ]
    for process in processes:
        process.start()
    for received, _ in pipes:
        assert received.poll(100)
        found, most = received.recv()
        assert found == list(range(NUM_ROWS))
        # Each may fetch while the other counts.
        assert 0 < most <= limit + 4 * max(sizes)
    for process in processes:
        process.join(20)
    assert np.sum([path.stat().st_size for path in local.glob("shard.*")]) <= limit + max(sizes)
