"""A cache that is built by processes that are killed, and by several at once."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jest_loader.reference_cache import build, build_part

ROOT = Path(__file__).parents[2]
ROWS, CHUNK_ROWS = 50, 8

# Builds a cache; writes the ids that it embeds, a batch a line. An argument KILL=n ends the process
# by SIGKILL at the n-th file: before it is on disk, or between there and its name (n odd or even).
BUILD = f"""
import json, os, signal, sys
from pathlib import Path
import numpy as np, torch
from jest_loader import Embeddings
from jest_loader.reference_cache import build

torch.set_num_threads(1)


class Source:
    batch_size, num_examples = 4, {ROWS}

    def __init__(self):
        self.first = 0

    def __len__(self):
        return -(-self.num_examples // self.batch_size)

    def __iter__(self):
        for batch in range(self.first, len(self)):
            rows = np.arange(4 * batch, min(4 * batch + 4, self.num_examples))
            yield {{"sample_id": rows}}

    def seek(self, batch):
        self.first = batch


class Reference:
    def embed(self, batch):
        ids = batch["sample_id"]
        with open(sys.argv[2], "a") as log:
            log.write(json.dumps(ids.tolist()) + "\\n")
        angle = torch.as_tensor(ids) / 10
        image = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Embeddings(image, -image, 7.5, -2.0)


def run(kill_at=None):
    calls = [0]
    def counted(function):
        def call(*arguments, **options):
            calls[0] += 1
            if calls[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
    build(sys.argv[1], Source(), Reference(), chunk_rows={CHUNK_ROWS})


"""
ONCE = BUILD + "run()"
PART = (
    BUILD.replace("import build", "import build, build_part")
    + f"""
part, num_parts = map(int, sys.argv[3:5])
build_part(sys.argv[1], Source(), Reference(), part, num_parts, chunk_rows={CHUNK_ROWS})
"""
)
KILLED = (
    BUILD
    + """
# For each number: a child is killed at that many files, and the next one goes on, until one ends.
base = sys.argv[1]
for kill_at in map(int, sys.argv[3:]):
    sys.argv[1:3] = f"{base}{kill_at}", f"{base}{kill_at}.log"
    attempts = 0
    while True:
        open(sys.argv[2], "a").write("[]\\n")
        child = os.fork()
        if child == 0:
            run(kill_at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        if status == 0:
            break
        attempts += 1
        assert attempts < 100
    assert attempts
"""
)


def start(program, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, status=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err[-2000:]
    return out


def content(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "cache"
    ended(start(ONCE, path, path.parent / "log"))
    return content(path)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(whole, tmp_path):
    # Of a chunk there are eight calls: three files and a record, each brought to disk and renamed.
    kill_at = [9, 10, 11, 13, 16, 17, 25]
    ended(start(KILLED, tmp_path / "cache", "", *kill_at))
    for number in kill_at:
        path, log = tmp_path / f"cache{number}", tmp_path / f"cache{number}.log"
        assert content(path) == whole
        # Of what was embedded before a stop, at most a chunk is embedded again (and the batch that
        # was under way when the process was killed).
        runs = [[]]
        for line in log.read_text().splitlines():
            runs.append([]) if line == "[]" else runs[-1].extend(json.loads(line))
        assert len(runs) > 2
        for before, after in itertools.pairwise(runs):
            assert len(set(before) & set(after)) <= CHUNK_ROWS + 4


@pytest.mark.slow
def test_processes_build_one_cache_together(whole, tmp_path):
    world_size = 2
    path = tmp_path / "cache"
    processes = [
        start(
            ONCE,
            *(path, tmp_path / f"log{rank}"),
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
        )
        for rank in range(world_size)
    ]
    for process in processes:
        ended(process)
    assert content(path) == whole
    seen = [
        {i for line in (tmp_path / f"log{rank}").read_text().splitlines() for i in json.loads(line)}
        for rank in range(world_size)
    ]
    assert set.union(*seen) == set(range(ROWS))
    assert all(seen), "each did something"
    assert sum(map(len, seen)) <= ROWS + 8 * world_size, "but for what they read past their ends"


@pytest.mark.slow
def test_one_process_goes_on_where_one_of_two_was_lost(whole, tmp_path):
    path = tmp_path / "cache"
    second = start(ONCE, path, tmp_path / "log1", RANK="1", WORLD_SIZE="2")
    while len(list(path.glob("building/0*.json"))) < 4:  # Chunks 3 to 6 of 7.
        assert second.poll() is None
    second.kill()
    second.communicate()
    ended(start(ONCE, path, tmp_path / "log", RANK="0", WORLD_SIZE="1"))
    assert content(path) == whole
    seen = [i for line in (tmp_path / "log").read_text().splitlines() for i in json.loads(line)]
    assert max(seen) < 3 * CHUNK_ROWS + 8, "the chunks of the lost one were taken over"


@pytest.mark.slow
def test_parts_are_built_one_by_one_and_completed_by_one_call(whole, tmp_path):
    path, seen = tmp_path / "cache", []
    for part in (2, 0, 0, 3, 1):  # Of 7 chunks; one part comes twice.
        log = tmp_path / f"log{len(seen)}"
        ended(start(PART, path, log, part, 4))
        lines = log.read_text().splitlines() if log.exists() else []
        seen.append({i for line in lines for i in json.loads(line)})
        assert not (path / "zarr.json").exists(), "no part knows that it is the last"
    assert [min(ids, default=None) for ids in seen] == [24, 0, None, 40, 8]
    ended(start(ONCE, path, tmp_path / "log"))
    assert content(path) == whole
    assert not (tmp_path / "log").exists(), "nothing is embedded twice"
    ended(start(PART, path, tmp_path / "log", 1, 4))
    assert content(path) == whole


@pytest.mark.slow
def test_a_part_that_never_came_is_built_by_the_last_call(whole, tmp_path):
    path = tmp_path / "cache"
    ended(start(PART, path, tmp_path / "log1", 1, 2))
    ended(start(ONCE, path, tmp_path / "log"))
    assert content(path) == whole
    seen = [i for line in (tmp_path / "log").read_text().splitlines() for i in json.loads(line)]
    assert max(seen) < 3 * CHUNK_ROWS + 8


def test_parts_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="part must be a whole number from 0 to 3, got 4"):
        build_part(tmp_path / "cache", [], lambda batch: None, 4, 4)
    with pytest.raises(ValueError, match="num_parts must be a whole number of at least 1, got 0"):
        build_part(tmp_path / "cache", [], lambda batch: None, 0, 0)
    with pytest.raises(ValueError, match="got list for 4 of them; use MdsSource or ZarrSource"):
        build_part(tmp_path / "cache", [], lambda batch: None, 0, 4)


def test_what_several_processes_cannot_build_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"got list for 2 of them; use MdsSource"):
        build(tmp_path / "cache", [], lambda batch: None)
    with pytest.raises(
        ValueError, match="overwrite=True works with one process only, got 2; delete"
    ):
        build(tmp_path / "cache", [], lambda batch: None, overwrite=True)
