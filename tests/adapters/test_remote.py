"""Fetching files into a local folder with a limit."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jest_loader.adapters.fetching.remote import RemoteFolder

FILES = {f"shard.{n}": bytes([n]) * 1000 for n in range(5)}
SIZES = {name: len(data) for name, data in FILES.items()}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "remote"
    path.mkdir()
    for name, data in FILES.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def url(folder, serve):
    return serve(folder)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between attempts it waits for seconds."""
    monkeypatch.setattr("jest_loader.adapters.fetching.remote.time.sleep", lambda _: None)


def here(local) -> list[str]:
    return sorted(path.name for path in local.iterdir())


@pytest.mark.parametrize("kind", ["path", "url"])
def test_files_are_fetched_once(kind, folder, url, tmp_path):
    remote = RemoteFolder({"path": str(folder), "url": url}[kind], tmp_path / "local")
    assert remote.fetch("shard.3").read_bytes() == FILES["shard.3"]
    (folder / "shard.3").unlink()
    assert remote.fetch("shard.3").read_bytes() == FILES["shard.3"]
    assert here(tmp_path / "local") == ["shard.3"]


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_file_that_is_not_there_is_an_error_that_names_it(kind, folder, url, tmp_path):
    address = {"path": str(folder), "url": url}[kind]
    remote = RemoteFolder(address, tmp_path / "local")
    with pytest.raises(OSError, match=r"/shard\.9 cannot be fetched: "):
        remote.fetch("shard.9")
    assert here(tmp_path / "local") == []


def test_a_download_that_fails_is_tried_again(folder, tmp_path, monkeypatch):
    attempts = []

    def flaky(_, source, to):
        attempts.append(to.path.name)
        to.path.write_bytes(b"half")
        if len(attempts) < 3:
            raise ConnectionError("reset")
        to.path.write_bytes(FILES["shard.0"])

    monkeypatch.setattr("jest_loader.adapters.fetching.places.PathFolder._copy", flaky)
    remote = RemoteFolder(str(folder), tmp_path / "local")
    assert remote.fetch("shard.0").read_bytes() == FILES["shard.0"]
    assert len(attempts) == 3


def test_a_file_appears_once_it_is_whole(folder, tmp_path, monkeypatch):
    def killed(_, source, to):
        to.path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("jest_loader.adapters.fetching.places.PathFolder._copy", killed)
    with pytest.raises(KeyboardInterrupt):
        RemoteFolder(str(folder), tmp_path / "local").fetch("shard.0")
    assert here(tmp_path / "local") == []


def test_what_was_used_longest_ago_makes_room(folder, tmp_path):
    remote = RemoteFolder(str(folder), tmp_path / "local", limit_bytes=2500)
    remote.set_sizes(SIZES)
    for age, name in enumerate(["shard.0", "shard.1"]):
        path = remote.fetch(name)
        os.utime(path, ns=(age, age))
    (tmp_path / "local" / "index.json").write_text("not a shard")
    remote.fetch("shard.0")  # Used again, so that shard.1 is the older.
    remote.fetch("shard.2")
    assert here(tmp_path / "local") == ["index.json", "shard.0", "shard.2"]


def test_what_a_killed_download_left_is_removed_when_it_is_old(folder, tmp_path):
    local = tmp_path / "local"
    then = time.time() - 10_000
    for name, last in (("gone", then), ("slow", time.time())):
        part = local / f".shard.{name}.part"
        part.mkdir(parents=True)
        (part / "shard").write_bytes(b"half")
        os.utime(part / "shard", (last, last))
        os.utime(part, (then, then))
    RemoteFolder(str(folder), local).remove_old_parts()
    assert here(local) == [".shard.slow.part"]


def test_room_is_made_for_what_other_processes_fetch_too(folder, tmp_path):
    remote = RemoteFolder(str(folder), tmp_path / "local", limit_bytes=2500)
    remote.set_sizes(SIZES)
    remote.fetch("shard.0")
    (tmp_path / "local" / ".shard.1.abc.part").mkdir()
    remote.fetch("shard.2")
    assert here(tmp_path / "local") == [".shard.1.abc.part", "shard.2"]


def test_a_limit_that_holds_no_shard_is_refused(folder, tmp_path):
    remote = RemoteFolder(str(folder), tmp_path / "local", limit_bytes=999)
    with pytest.raises(ValueError, match=r"must hold the largest file .* 1000 bytes, got 999"):
        remote.set_sizes(SIZES)
    with pytest.raises(ValueError, match="limit_bytes must be at least 1 or None, got 0"):
        RemoteFolder(str(folder), tmp_path / "local", limit_bytes=0)


def test_what_is_dropped_is_fetched_again(folder, tmp_path):
    remote = RemoteFolder(str(folder), tmp_path / "local")
    remote.fetch("shard.0").write_bytes(b"torn")
    remote.drop("shard.0")
    assert remote.fetch("shard.0").read_bytes() == FILES["shard.0"]


@pytest.mark.parametrize("kind", ["path", "url"])
def test_several_may_fetch_into_one_folder_at_once(kind, folder, url, tmp_path):
    address = {"path": str(folder), "url": url}[kind]
    remotes = [RemoteFolder(address, tmp_path / "local", limit_bytes=4000) for _ in range(4)]
    for remote in remotes:
        remote.set_sizes(SIZES)

    def fetch_all(remote):
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):  # Another has deleted it to make room.
                assert remote.fetch(name).read_bytes() == FILES[name]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch_all, remotes))
    assert set(here(tmp_path / "local")) <= set(FILES), "nothing unfinished is left"


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "local").write_text("a file")
    with pytest.raises(OSError, match=r"local'$"):
        RemoteFolder(str(folder), tmp_path / "local").fetch("shard.0")
