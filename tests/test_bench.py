"""The benchmarks run, and end with one JSON document."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jest_loader.demo.run import DemoConfig, run_demo
from jest_loader.pack import write_mds
from tests.bench_data import (
    ICON_COLUMNS,
    made_icons,
    write_icon_package,
    write_made_demo,
    write_made_dictionary,
    write_made_runs,
)

ROOT = Path(__file__).parents[1]
RUN = 'if __name__ == "__main__":'
ARMS = ["joint", "flexi", "hard", "filtered", "pruned", "easy_clean", "with_curated"]
ICONS = ["--data", "icons", "--steps", "1"]
SHORT = {
    "demo.sweep": ["--out", "demo_sweep", "--steps", "8", "--reference-steps", "1", "--lr", "1e-3"],
    "demo.seeds": ["--out", "demo", "--steps", "8", "--reference-steps", "1", "--seeds", "0", "1"],
    "demo.variants": [
        *("--out", "demo_variants", "--steps", "2"),
        *("--reference-steps", "1", "--long-reference-steps", "2"),
    ],
    "caching": ["--smoke"],
    "emitting": ["--smoke"],
    "scoring": ["--smoke"],
    "scoring.precision": [
        *("--demo", "demo", "--candidates", "40"),
        *("--super-batches", "1"),
    ],
    "selection": ["--smoke"],
    "gpu": ["--smoke", "--out", "gpu", "--parts", "selection"],
    "decoding": ["--smoke"],
    "endurance": ["--smoke"],
    "ranks": ["--smoke"],
    "quotas": ["--smoke", "--plot", "quotas.png"],
    "reading": ["--smoke"],
    "training.data": ["--package", "icons.tgz", "--out", "rendered", "--min-sets", "1"],
    "training": [*ICONS, "--out", "training", "--arms", "uniform", *ARMS],
    "training.times": [
        *(*ICONS, "--out", "times", "--arms", "hard"),
        *("--rounds", "1", "--timed-steps", "4"),
    ],
    "training.sweep": [*ICONS, "--out", "sweep", "--lr", "1e-3"],
    "training.resolution": ["--data", "icons", "--runs", "made_runs", "--arms", "joint"],
    "training.kept": [*ICONS, "--out", "kept"],
    "training.report": ["--runs", "made_runs", "--plot", "made.png"],
    "seen": ["--out", "seen", "--steps", "1", "--epochs", "1"],
    "joint.dictionary": ["--file", "de-en", "--out", "written"],
    "joint": [
        *("--data", "dictionary", "--out", "joint", "--records", "joint/records.jsonl"),
        *("--batch-size", "8", "--steps", "2", "--arms", "uniform", "independent-1", "joint-4"),
        *("--reference", "weak"),
    ],
    "joint.report": ["--records", "joint.jsonl", "--plot", "joint.png"],
    "chunks": [
        *("--demo", "demo", "--candidates", "40"),
        *("--super-batches", "1", "--plot", "plot.png"),
    ],
}
RESULTS = {
    "training.report": "training",
    "joint.report": "joint",
    **{name: f"{name}_cpu" for name in SHORT if (ROOT / f"bench/results/{name}_cpu.txt").is_file()},
}


def module_of(path: Path) -> str:
    """The module that is run: without the package's name and ``__main__``."""
    return ".".join(path.relative_to(ROOT / "bench").with_suffix("").parts).removesuffix(
        ".__main__"
    )


def test_every_benchmark_is_run_here() -> None:
    files = (ROOT / "bench").rglob("*.py")
    assert {module_of(path) for path in files if RUN in path.read_text()} == {*SHORT}


def last_line(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text.splitlines()[-1])
    return document


def committed(name: str) -> Path:
    """The result of a benchmark, which not all have."""
    return ROOT / "bench" / "results" / f"{RESULTS.get(name, name.replace('.', '_'))}.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmarks run: with a demo of one step, which some of them start from."""
    folder = tmp_path_factory.mktemp("bench")
    for demo in ("demo", "demo/seed-0", "demo/seed-1", "demo_sweep", "demo_variants"):
        write_made_demo(folder / demo / "data")
    run_demo(DemoConfig(out=folder / "demo", steps=8, reference_steps=1))
    write_icon_package(folder / "icons.tgz")
    write_made_dictionary(folder)
    sizes = {"test": 16, "curated": 160, "uncurated_20": 1300, "uncurated_clean": 1300}
    for name, size in sizes.items():
        write_mds(folder / "icons" / name, ICON_COLUMNS, made_icons(size))
    write_made_runs(folder / "made_runs")
    trained = folder / "made_runs" / "noise-20-batch-128" / "joint" / "seed-0"
    shutil.copy(folder / "demo" / "joint" / "checkpoint.pt", trained)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHORT))
def test_a_short_run_ends_with_json(name: str, folder: Path) -> None:
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
    document = last_line(result.stdout)
    assert document["environment"]["torch"]
    if name not in ("training", "joint") and committed(name).is_file():
        # It may be from before a measure was added.
        assert document.keys() >= last_line(committed(name).read_text()).keys()


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.txt")), ids=str)
def test_committed_results_end_with_json(path: Path) -> None:
    assert last_line(path.read_text())["environment"]["torch"]
