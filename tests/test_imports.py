"""The core is light: it costs little more than torch and brings nothing else along."""

import json
import os
import statistics
import subprocess
import sys

import pytest

MAX_ADDED_MS = 150

# Top-level packages that only adapters, pack, clip, demo and cli may import, and only when used.
HEAVY = {
    "PIL",
    "accelerate",
    "lightning",
    "matplotlib",
    "open_clip",
    "simplejpeg",
    "streaming",
    "tensorboard",
    "torchdata",
    "torchvision",
    "tqdm",
    "transformers",
    "tyro",
    "wandb",
    "zarr",
}

PROBE = """
import importlib, json, sys, time
import torch
before = set(sys.modules)
started = time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
added_ms = 1000 * (time.process_time() - started)
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"added_ms": added_ms, "added": sorted(added)}))
"""


def probe(*modules: str) -> tuple[float, set[str]]:
    """CPU time in ms that importing the modules adds to torch, and the packages it adds."""
    # CPU time, since a wall clock would measure what else the machine is doing; with byte code
    # kept, as where the package is installed.
    command = [sys.executable, "-c", PROBE, *modules]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    seen = json.loads(result.stdout)
    return seen["added_ms"], set(seen["added"])


def test_import_adds_little_to_torch() -> None:
    added_ms = statistics.median(probe("jest_loader")[0] for _ in range(3))
    assert added_ms <= MAX_ADDED_MS


@pytest.mark.parametrize(
    "module",
    [
        "jest_loader",
        "jest_loader.testing",
        "jest_loader.adapters.images",
        "jest_loader.adapters.mds",
        "jest_loader.adapters.zarr",
    ],
)
def test_import_brings_nothing_heavy(module: str) -> None:
    _, added = probe(module)
    assert "jest_loader" in added
    assert not added & HEAVY


def test_probe_sees_heavy_imports() -> None:
    _, added = probe("PIL.Image")
    assert added & HEAVY == {"PIL"}
