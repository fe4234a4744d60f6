"""Killed at any moment, a run goes on where it was saved, over real shards, while reading ahead."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jest_loader.pack import write_mds, write_zarr

TRAIN = """
    import json, os, sys, time
    from pathlib import Path
    import torch
    from jest_loader import ExampleScores, JestDataset, Options
    from jest_loader.adapters.mds import MdsSource
    from jest_loader.adapters.zarr import ZarrSource

    kind, data, out, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])

    class Scorer:
        def score(self, super_batch):
            return ExampleScores(torch.from_numpy(super_batch["value"]))

    source = {"mds": MdsSource, "zarr": ZarrSource}[kind](data, batch_size=10)
    dataset = JestDataset(
        source, Scorer(), super_batch_size=50, sub_batch_size=10, options=Options(prefetch=2)
    )
    done = []
    if (out / "state.json").is_file():
        saved = json.loads((out / "state.json").read_text())
        dataset.load_state_dict(saved["dataset"])
        done = saved["done"]
    print("started", flush=True)
    for epoch in range(dataset.epoch, 3):
        dataset.set_epoch(epoch)
        for batch in dataset:
            done.append(batch["sample_id"].tolist())
            state = {"dataset": dataset.state_dict(), "done": done}
            (out / "part").write_text(json.dumps(state))
            (out / "part").replace(out / "state.json")
            time.sleep(seconds)
    (out / "done.json").write_text(json.dumps(done))
"""


def start(kind, data, out, seconds):
    out.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN), kind, str(data), str(out), str(seconds)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mds", "zarr"])
def test_a_run_killed_again_and_again_delivers_what_a_whole_run_does(kind, tmp_path):
    columns = {"value": "float32", "jpg": "bytes"}
    rows = ({"value": n % 17 / 10, "jpg": bytes(n % 50)} for n in range(310))
    data = tmp_path / "data"
    (write_mds if kind == "mds" else write_zarr)(data, columns, rows)
    whole = tmp_path / "whole"
    with start(kind, data, whole, 0) as process:
        assert process.wait(timeout=60) == 0
    expected = json.loads((whole / "done.json").read_text())
    assert len(expected) == 18

    killed = tmp_path / "killed"
    for _ in range(3):
        with start(kind, data, killed, 0.05) as process:
            assert process.stdout.readline() == b"started\n"
            time.sleep(0.25)
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (killed / "done.json").exists(), "it must not have got to the end"
    with start(kind, data, killed, 0) as process:
        assert process.wait(timeout=60) == 0
    assert json.loads((killed / "done.json").read_text()) == expected
