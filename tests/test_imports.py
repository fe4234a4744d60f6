"""The core is light: it costs little more than torch and brings nothing else along."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

MAX_ADDED_MS = 150

TOOLS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]
# Top-level packages that only adapters, pack, clip, demo and cli may import, and only when used.
HEAVY = set(TOOLS["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"])

PROBE = """
import importlib, json, sys, time
import torch
before = set(sys.modules)
found = []
for name in sys.argv[1:]:
    started = time.process_time()
    importlib.import_module(name)
    added_ms = 1000 * (time.process_time() - started)
    added = {name.partition(".")[0] for name in set(sys.modules) - before}
    found.append([added_ms, sorted(added)])
print(json.dumps(found))
"""


def probe(*modules: str) -> list[tuple[float, set[str]]]:
    """For each module, the CPU time in ms of importing it after those before it, and the packages
    that all so far add to torch.
    """
    # CPU time, since a wall clock would measure what else the machine is doing; with byte code
    # kept, as where the package is installed.
    command = [sys.executable, "-c", PROBE, *modules]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    return [(added_ms, set(added)) for added_ms, added in json.loads(result.stdout)]


def test_heavy_packages_are_forbidden_to_the_core() -> None:
    (contract,) = (
        contract
        for contract in TOOLS["importlinter"]["contracts"]
        if contract["type"] == "forbidden"
    )
    assert set(contract["forbidden_modules"]) == HEAVY


def test_import_adds_little_to_torch() -> None:
    """In one of three processes, since what else the machine does adds to some."""
    assert any(probe("jest_loader.public")[0][0] <= MAX_ADDED_MS for _ in range(3))


def test_import_brings_nothing_heavy() -> None:
    modules = (
        "jest_loader.public",
        "jest_loader.testing.conformance",
        "jest_loader.adapters.images",
        "jest_loader.adapters.mds",
        "jest_loader.adapters.zarr",
    )
    for module, (_, added) in zip(modules, probe(*modules), strict=True):
        assert "jest_loader" in added
        assert not added & HEAVY, f"{module} brings {added & HEAVY}"


def test_probe_sees_heavy_imports() -> None:
    [(_, added)] = probe("PIL.Image")
    assert added & HEAVY == {"PIL"}
