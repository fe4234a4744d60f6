"""The benchmarks run, and end with one JSON document."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jest_loader.demo.run import DemoConfig, run_demo
from jest_loader.pack import write_mds
from tests.bench_data import ICON_COLUMNS, made_icons, write_icon_package, write_made_runs

ROOT = Path(__file__).parents[1]
RUN = 'if __name__ == "__main__":'
SHORT = {
    "demo.sweep": ["--out", "out", "--steps", "2", "--lr", "1e-3", "--loss", "sigmoid"],
    "demo.seeds": ["--out", "out", "--steps", "2", "--seeds", "0", "1"],
    "caching": ["--smoke"],
    "emitting": ["--smoke"],
    "scoring": ["--smoke"],
    "selection": ["--smoke"],
    "decoding": ["--smoke"],
    "ranks": ["--smoke", "--plot", "ranks.png"],
    "reading": ["--smoke"],
    "training.data": ["--package", "icons.tgz", "--out", "rendered", "--min-sets", "1"],
    "training": [
        "--data",
        "icons",
        "--out",
        "training",
        "--steps",
        "2",
        "--arms",
        "uniform",
        "joint",
        "flexi",
        "hard",
        "filtered",
        "pruned",
        "easy_clean",
        "with_curated",
    ],
    "training.times": [
        "--data",
        "icons",
        "--out",
        "times",
        "--steps",
        "2",
        "--arms",
        "joint",
        "--rounds",
        "1",
    ],
    "training.sweep": ["--data", "icons", "--out", "sweep", "--steps", "2", "--lr", "1e-3"],
    "training.resolution": ["--data", "icons", "--runs", "made_runs", "--arms", "joint"],
    "training.kept": ["--data", "icons", "--out", "kept", "--steps", "2"],
    "training.report": ["--runs", "made_runs", "--plot", "made.png"],
    "chunks": ["--demo", "short_demo", "--candidates", "40", "--plot", "plot.png"],
}


def module_of(path: Path) -> str:
    """The module that is run: without the package's name and ``__main__``."""
    return ".".join(path.relative_to(ROOT / "bench").with_suffix("").parts).removesuffix(
        ".__main__"
    )


def test_every_benchmark_is_run_here():
    files = (ROOT / "bench").rglob("*.py")
    assert {module_of(path) for path in files if RUN in path.read_text()} == {*SHORT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the benchmarks run: with a demo of one step, which some of them start from."""
    folder = tmp_path_factory.mktemp("bench")
    run_demo(DemoConfig(out=folder / "short_demo", steps=1, reference_steps=1))
    write_icon_package(folder / "icons.tgz")
    sizes = {"test": 16, "curated": 160, "uncurated_20": 1300, "uncurated_clean": 1300}
    for name, size in sizes.items():
        write_mds(folder / "icons" / name, ICON_COLUMNS, made_icons(size))
    write_made_runs(folder / "made_runs")
    trained = folder / "made_runs" / "noise-20-batch-128" / "joint" / "seed-0"
    shutil.copy(folder / "short_demo" / "joint" / "checkpoint.pt", trained)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHORT))
def test_a_short_run_ends_with_json(name, folder):
    result = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *SHORT[name]],
        capture_output=True,
        text=True,
        cwd=folder,
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
