"""The benchmarks run, and end with one JSON document."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT = {
    "demo_sweep": ["--out", "out", "--steps", "2", "--lr", "1e-3", "--loss", "sigmoid"],
    "demo_seeds": ["--out", "out", "--steps", "2", "--seeds", "0", "1"],
    "selection": ["--smoke"],
}


def test_every_benchmark_is_run_here():
    assert {path.stem for path in (ROOT / "bench").glob("*.py")} == {*SHORT, "harness"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHORT))
def test_a_short_run_ends_with_json(name, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "bench" / f"{name}.py", *SHORT[name]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["environment"]["torch"]


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.txt")), ids=str)
def test_committed_results_end_with_json(path):
    document = json.loads(path.read_text().splitlines()[-1])
    assert document["environment"]["torch"]
