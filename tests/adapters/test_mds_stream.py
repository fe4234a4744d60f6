"""Remote shards, and several streams mixed."""

import shutil

import numpy as np
import pytest

from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.pack import write_mds

NUM_ROWS = 120


def write(path, first=0, num_rows=NUM_ROWS, compression=None):
    from streaming import MDSWriter

    columns = {"n": "int", "jpg": "bytes"}
    with MDSWriter(
        out=str(path), columns=columns, compression=compression, size_limit=1 << 11, hashes=["sha1"]
    ) as writer:
        for n in range(first, first + num_rows):
            writer.write({"n": n, "jpg": bytes([n % 256]) * 100})
    return path


@pytest.fixture
def remote(tmp_path):
    return write(tmp_path / "remote")


@pytest.fixture
def url(remote, serve):
    return serve(remote)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between attempts it waits for seconds."""
    monkeypatch.setattr("jest_loader.adapters.fetching.remote.time.sleep", lambda _: None)


def open_source(*streams, **options):
    return MdsSource(list(streams), **{"batch_size": 10, "seed": 3, **options})


def numbers(source) -> list[int]:
    return [n for batch in source for n in batch["n"].tolist()]


def shards(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("shard.*"))


@pytest.mark.parametrize("kind", ["path", "url"])
def test_shards_elsewhere_read_as_those_here(kind, remote, url, tmp_path):
    here = numbers(open_source(remote))
    address = {"path": remote, "url": url}[kind]
    source = open_source(MdsStream(address, local=tmp_path / "local"))
    assert shards(tmp_path / "local") == [], "nothing is fetched before it is read"
    assert numbers(source) == here
    assert shards(tmp_path / "local") == shards(remote)
    for batch in source:
        assert [row[0] for row in batch["jpg"]] == [n % 256 for n in batch["n"].tolist()]


def test_compressed_shards_are_fetched_and_kept_compressed(tmp_path):
    remote = write(tmp_path / "remote", compression="zstd")
    source = open_source(MdsStream(remote, local=tmp_path / "local"))
    assert sorted(numbers(source)) == list(range(NUM_ROWS))
    assert shards(tmp_path / "local") == shards(remote)
    assert all(name.endswith(".zstd") for name in shards(remote))


def test_only_what_is_needed_is_fetched_and_resume_is_exact(remote, tmp_path):
    stream = MdsStream(remote, local=tmp_path / "local")
    source = open_source(stream, window_rows=20)
    batches = iter(source)
    for _ in range(7):
        next(batches)
    state, rest = source.state_dict(), numbers(batches)
    other = MdsStream(remote, local=tmp_path / "other")
    resumed = open_source(other, window_rows=20)
    resumed.load_state_dict(state)
    assert numbers(resumed) == rest
    assert 0 < len(shards(tmp_path / "other")) < len(shards(remote))
    resumed = open_source(remote, window_rows=20)
    resumed.load_state_dict(state)
    assert numbers(resumed) == rest, "here or elsewhere, it is the same data"


def test_the_local_folder_keeps_to_its_limit(remote, tmp_path):
    local = tmp_path / "local"
    limit = 3 * max(path.stat().st_size for path in remote.glob("shard.*"))
    source = open_source(MdsStream(remote, local=local, limit_bytes=limit), window_rows=20)
    most = 0
    for _ in range(2):
        found = []
        for batch in source:
            found += batch["n"].tolist()
            most = max(most, sum(path.stat().st_size for path in local.glob("shard.*")))
        assert sorted(found) == list(range(NUM_ROWS))
    assert 0 < most <= limit


def test_a_cached_shard_that_was_damaged_is_fetched_again(remote, tmp_path):
    local = tmp_path / "local"
    assert len(numbers(open_source(MdsStream(remote, local=local)))) == NUM_ROWS
    name = shards(local)[1]
    for damage in (b"", b"x" * 100, (local / name).read_bytes()[:-1] + b"x"):
        (local / name).write_bytes(damage)
        found = numbers(open_source(MdsStream(remote, local=local)))
        assert sorted(found) == list(range(NUM_ROWS))
        assert (local / name).read_bytes() == (remote / name).read_bytes()


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_remote_shard_that_is_bad_is_an_error_and_is_not_trusted_later(damage, remote, tmp_path):
    name = shards(remote)[1]
    whole = (remote / name).read_bytes()
    if damage == "missing":
        (remote / name).unlink()
        expected = pytest.raises(OSError, match=rf"{name} cannot be fetched: ")
    else:
        (remote / name).write_bytes(whole[:-1] + b"x")
        expected = pytest.raises(ValueError, match=rf"{name} must have the sha1")
    local = tmp_path / "local"
    with expected:
        numbers(open_source(MdsStream(remote, local=local)))
    (remote / name).write_bytes(whole)
    assert sorted(numbers(open_source(MdsStream(remote, local=local)))) == list(range(NUM_ROWS))


def test_a_data_set_that_was_extended_is_noticed(remote, tmp_path):
    stream = MdsStream(remote, local=tmp_path / "local")
    assert len(numbers(open_source(stream))) == NUM_ROWS
    for path in remote.iterdir():
        path.unlink()
    write(remote, num_rows=150)
    assert sorted(numbers(open_source(stream))) == list(range(150))


def test_shards_without_hashes_are_fetched_again_after_a_change(tmp_path):
    from streaming import MDSWriter

    def write_numbers(first, shards=1):
        folder = tmp_path / "remote"
        shutil.rmtree(folder, ignore_errors=True)
        with MDSWriter(out=str(folder), columns={"n": "int"}, size_limit=800) as writer:
            for n in range(first, first + 40 * shards):
                writer.write({"n": n})

    stream = MdsStream(tmp_path / "remote", local=tmp_path / "local")
    write_numbers(0)
    assert sorted(numbers(open_source(stream))) == list(range(40))
    write_numbers(100, shards=2)  # A first shard of the same name and size.
    assert sorted(numbers(open_source(stream))) == list(range(100, 180))


def test_streams_are_one_data_set(remote, tmp_path):
    more = write(tmp_path / "more", first=1000, num_rows=50)
    source = open_source(remote, MdsStream(more, local=tmp_path / "local"), batch_size=17)
    rows = [(b["sample_id"].tolist(), b["n"].tolist()) for b in source]
    ids, found = ([v for part in parts for v in part] for parts in zip(*rows, strict=True))
    assert sorted(ids) == list(range(170))
    expected = [*range(NUM_ROWS), *range(1000, 1050)]
    assert found == [expected[place] for place in ids]
    mixed = [sum(n >= 1000 for n in numbers) for _, numbers in rows]
    assert min(mixed) < max(mixed)
    assert sum(mixed) == 50


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (0.1, 0.9)])
def test_proportions_are_those_of_an_epoch(shares, remote, tmp_path):
    more = write(tmp_path / "more", first=1000, num_rows=40)
    streams = [MdsStream(p, proportion=s) for p, s in zip((remote, more), shares, strict=True)]
    source = open_source(*streams)
    assert source.num_examples == 160
    seen = set()
    for epoch in range(60):
        found = np.array(numbers(source))
        assert len(found) == 160
        want = round(160 * shares[0] / sum(shares))
        assert (found < 1000).sum() == want
        for first, rows in ((0, NUM_ROWS), (1000, 40)):
            mine = found[(found >= first) & (found < first + rows)]
            times = np.bincount(mine - first, minlength=rows)
            assert times.max() - times.min() <= 1, epoch
        seen |= set(found.tolist())
    assert len(seen) == NUM_ROWS + 40, "in time every row has its turn"


def test_resume_is_exact_with_proportions(remote, tmp_path):
    more = write(tmp_path / "more", first=1000, num_rows=40)

    def make(shares=(1, 2)):
        streams = [MdsStream(p, proportion=s) for p, s in zip((remote, more), shares, strict=True)]
        return open_source(*streams, window_rows=30)

    for position in range(17):
        source = make()
        batches = iter(source)
        for _ in range(position):
            next(batches)
        state, rest = source.state_dict(), numbers(batches)
        resumed = make()
        resumed.load_state_dict(state)
        assert numbers(resumed) == rest
    with pytest.raises(
        ValueError, match=r"same mixture, got \[53, 107\] in the state and \[80, 80"
    ):
        make((1, 1)).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: MdsStream("s3://bucket/data"), r"s3://bucket/data has none; .*local=folder"),
        (lambda p: MdsStream(p, limit_bytes=10), "limits the folder local, but that is None"),
        (
            lambda p: MdsStream(p, proportion=0),
            "proportion must be a positive number or None, got 0",
        ),
        (
            lambda p: open_source(p, MdsStream(p, proportion=1)),
            r"all streams have a proportion or none has, got \[None, 1\]",
        ),
        (
            lambda p: open_source(MdsStream(p, local=p.parent / "local", limit_bytes=10)),
            "limit_bytes must hold the largest file",
        ),
        (lambda p: MdsStream(p, local=p), "local must be another folder than path"),
        (
            lambda p: open_source(*[MdsStream(p, local=p.parent / "local")] * 2),
            "each stream must have a local folder of its own",
        ),
        (lambda p: MdsSource([], batch_size=1), "must hold at least one row, but an empty list"),
    ],
    ids=["url", "limit", "proportion", "some", "small", "same", "shared", "none"],
)
def test_streams_that_cannot_be_are_refused(make, message, remote):
    with pytest.raises(ValueError, match=message):
        make(remote)


def test_streams_with_other_columns_are_refused(remote, tmp_path):
    other = tmp_path / "other"
    write_mds(other, {"m": "int"}, [{"m": 1}])
    with pytest.raises(ValueError, match="all shards must have the same columns"):
        open_source(remote, other)
