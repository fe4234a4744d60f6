"""Small data for benchmarks whose own takes long to make."""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench.joint import dictionary, records
from bench.joint.arms import Setting
from jest_loader.demo.data import data_settings
from jest_loader.demo.run import DemoConfig
from jest_loader.pack import write_mds

ICON_COLUMNS = {"image": "ndarray:uint8:32,32", "caption": "str", "set": "str", "shuffled": "int"}


def made_icons(size: int) -> Iterator[dict[str, Any]]:
    """Bars whose place is their name, as ``bench.training.data`` writes icons."""
    generator = np.random.default_rng(size)
    for row in range(size):
        image = generator.integers(0, 40, (32, 32), dtype=np.uint8)
        image[row % 16 * 2] = 255
        yield {
            "image": image,
            "caption": f"bar {row % 16}",
            "set": "bars",
            "shuffled": row % 5 // 4,
        }


def write_made_demo(path: Path) -> None:
    """The demo's three sets with bars in place of icons."""
    sizes = {"curated": 300, "uncurated": 1300, "held_out": 32}
    for name, size in sizes.items():
        write_mds(path / name, ICON_COLUMNS, made_icons(size))
    settings = data_settings(DemoConfig.noise_fraction, seed=0)
    found = {"settings": settings, "num_examples": sizes, "num_classes": 16}
    (path / "demo.json").write_text(json.dumps(found))


def write_icon_package(path: Path) -> None:
    """A tarball like that of ``@iconify/json``, with a test set, a curated set and three others."""
    licence = {"title": "MIT", "spdx": "MIT"}
    sets = {name: [(1, 2), (3, 4), (5, 6)] for name in ("lucide", "tabler", "one", "two", "style")}
    files: dict[str, Any] = {
        "collections.json": {
            **{name: {"license": licence} for name in sets},
            "copyleft": {"license": {"title": "GPL 3.0", "spdx": "GPL-3.0"}},
        }
    }
    for shift, (name, bars) in enumerate(sets.items()):
        suffix = "-line" if name == "style" else ""
        icons = {
            f"bar-{x}{suffix}": {
                "body": f'<rect x="{x + shift}" y="{y + shift}" width="3" height="{5 + shift}"/>'
            }
            for x, y in bars
        }
        icons["unseen"] = {"body": "<rect/>", "hidden": True}
        icons["blank"] = {"body": ""}
        suffixes = {"line": "Line"} if suffix else {}
        files[f"json/{name}.json"] = {
            "prefix": name, "width": 16, "height": 16, "icons": icons, "suffixes": suffixes,
        }  # fmt: skip
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))


def write_made_runs(path: Path) -> None:
    """Runs of ``bench.training`` with known curves: joint is at 20 % after 20 of 40 steps."""
    write_made_run(path / "references" / "curated-sigmoid", [0.05, 0.1, 0.15, 0.2])
    for seed, last in enumerate((0.18, 0.2, 0.22)):
        folder = path / "noise-20-batch-128"
        write_made_run(folder / "uniform" / f"seed-{seed}", [0.05, 0.1, 0.15, last], seed=seed)
        write_made_run(folder / "joint" / f"seed-{seed}", [0.1, 0.2, 0.3, 0.4], seed=seed, cost=2.0)


def write_made_run(path: Path, top1: list[float], *, seed: int = 0, cost: float = 1.0) -> None:
    """A ``metrics.json`` with these accuracies, ten steps apart."""
    evaluations = [
        {
            "step": 10 * place,
            "seconds": float(place),
            "metrics": {"zero_shot_top1": value, "retrieval_r10": 0.5},
            "selection": {"score": -1.0, "uniform_score": -2.0, "independent_overlap": 0.7},
            "watched": {"shuffled": 0.1 * place},
        }
        for place, value in enumerate(top1, start=1)
    ]
    steps = 10 * len(top1)
    path.mkdir(parents=True)
    run = {
        "finished": True, "steps": steps, "seconds": 4.0, "flops": cost * steps * 1e9,
        "counts": {"trained": 128 * steps}, "evaluations": evaluations, "config": {"seed": seed},
    }  # fmt: skip
    (path / "metrics.json").write_text(json.dumps(run))
    spent = [{"step": e["step"], "flops": cost * e["step"] * 1e9} for e in evaluations]
    (path / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in spent))


def write_made_dictionary(folder: Path) -> None:
    """A dictionary as the Ding's file, its tables, and records of runs on it."""
    lines = [f"Wort{n} {{n}} | Wörter{n} :: word{n}; term | words{n}\n" for n in range(300)]
    (folder / "de-en").write_text("".join(lines))
    dictionary.write(list(dictionary.pairs_of(lines)), folder / "dictionary")
    for arm, seed in product(("uniform", "independent-1", "joint-1"), range(3)):
        end = {"step": 600, "r1": 0.1 * (seed + len(arm)), "r10": 0.5, "fine": 0.7}
        shares = {"wrong": 0.2, "seen": 0.0, "german": 1.0, "near_duplicates": [0.1]}
        reached = {"reference_accuracy": {"r1": 0.5}, "curve": [{**end, "step": 300}, end]}
        run = {"setting": vars(Setting()), "arm": arm, "seed": seed}
        records.append(folder / "joint.jsonl", {**run, **shares, **reached})
