"""MosaicML's own StreamingDataLoader as a source: exact resume, and its silences made errors."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

RUN = """
    import os, sys
    import streaming
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
    from jest_loader import ExampleScores, JestDataset, Options
    from jest_loader.testing import assert_resumes_exactly

    folder, num_workers = sys.argv[1], int(sys.argv[2])
    with MDSWriter(out=folder, columns={"n": "int"}, size_limit=1 << 10) as writer:
        for n in range(320):
            writer.write({"n": n})

    class Scorer:
        def score(self, super_batch):
            return ExampleScores(super_batch["n"].double())

    def make(**options):
        streaming.base.util.clean_stale_shared_memory()
        dataset = StreamingDataset(
            local=folder, batch_size=8, shuffle=True, num_canonical_nodes=1
        )
        loader = StreamingDataLoader(dataset, batch_size=8, num_workers=num_workers)
        sizes = {"super_batch_size": 80, "sub_batch_size": 8}
        return JestDataset(loader, Scorer(), **sizes, options=Options(**options))
"""

RESUMES = """
    assert_resumes_exactly(make)
    print("exact")
"""

CHECKS = """
    from tests.frameworks.sources import check

    def loader(num_rows):
        streaming.base.util.clean_stale_shared_memory()
        name = f"{folder}-{num_rows}"
        if not os.path.exists(name):
            with MDSWriter(out=name, columns={"n": "int"}, size_limit=1 << 10) as writer:
                for n in range(num_rows):
                    writer.write({"n": n})
        dataset = StreamingDataset(local=name, batch_size=10, shuffle=True, num_canonical_nodes=1)
        return StreamingDataLoader(dataset, batch_size=10, num_workers=num_workers)

    check("MosaicML `StreamingDataLoader`", loader, lambda batch: batch["n"])
    print("as the page says")
"""

RANKS = """
    from tests.frameworks.sources import check_ranks
    from tests.frameworks.test_streaming_loader import loader_of_rank, number

    check_ranks("MosaicML `StreamingDataLoader`", loader_of_rank, number, folder)
    print("as the page says")
"""

LOSES_A_SHARD = """
    os.remove(os.path.join(folder, "shard.00001.mds"))
    try:
        list(make(stall_timeout_s=5))
    except (ValueError, TimeoutError) as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)  # Which waits for no worker.
"""


def run(script, folder, num_workers):
    """What the script prints; nothing it leaves behind may outlive it."""
    output = folder.with_name("output")
    with output.open("w") as file:  # A pipe would stay open as long as any of its workers.
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN + script), str(folder), str(num_workers)],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            assert process.wait(timeout=120) == 0, output.read_text()[-2000:]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return output.read_text()


def loader_of_rank(folder):
    import streaming

    rank, size = str(torch.distributed.get_rank()), str(torch.distributed.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    dataset = streaming.StreamingDataset(local=folder, batch_size=10, shuffle=True)
    return streaming.StreamingDataLoader(dataset, batch_size=10)


def number(batch):
    return batch["n"]


@pytest.mark.slow
@pytest.mark.parametrize("script", [CHECKS, RANKS], ids=["one rank", "two ranks"])
def test_the_loader_does_what_the_page_says(script, tmp_path):
    assert "as the page says" in run(script, tmp_path / "data", 0)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact(num_workers, tmp_path):
    assert "exact" in run(RESUMES, tmp_path / "data", num_workers)


@pytest.mark.slow
def test_a_missing_shard_is_an_error_where_the_loader_just_ends(tmp_path):
    """``StreamingDataset`` logs the exception and ends the epoch."""
    found = run(LOSES_A_SHARD, tmp_path / "data", 0)
    assert "ValueError" in found
    assert "ended after" in found


@pytest.mark.slow
def test_a_missing_shard_is_an_error_where_the_loader_waits_for_ever(tmp_path):
    """With workers it hangs."""
    found = run(LOSES_A_SHARD, tmp_path / "data", 2)
    assert "TimeoutError the source must yield a super-batch within 5 s" in found or (
        "ValueError the source" in found
    )
