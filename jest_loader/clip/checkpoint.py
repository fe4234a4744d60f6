"""Checkpoints: written whole or not at all, read without unpickling objects."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from jest_loader.clip.config import TrainConfig
from jest_loader.clip.towers import ModelConfig, TwoTower

_VERSION = 1
_FREE = {"out", "device"}  # May differ when a run goes on.


def save(path: Path, config: TrainConfig, contents: dict[str, Any]) -> None:
    """Write ``contents`` with the configuration to ``path``, in place of what was there."""
    part = path.with_suffix(".part")
    torch.save({"version": _VERSION, "config": plain(config), **contents}, part)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote, on the CPU.

    Raises:
        ValueError: if there is no checkpoint, or it is of another version.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; train a model first")
    contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if contents.get("version") != _VERSION:
        raise ValueError(
            f"a checkpoint must have version {_VERSION}, got {contents.get('version')} in {path}; "
            "read it with the release of jest-loader that wrote it"
        )
    return contents


def load_model(path: Path) -> TwoTower:
    """The model of a checkpoint, on the CPU.

    Raises:
        ValueError: as ``load``.
    """
    contents = load(path)
    saved = contents["config"]
    model = new_model(ModelConfig(**saved["model"]), saved["loss"])
    model.load_state_dict(contents["model"])
    return model


def new_model(
    config: ModelConfig, loss: str, *, scale: float = 10.0, bias: float = -10.0
) -> TwoTower:
    """A model for ``loss``: a softmax model has no bias."""
    return TwoTower(config, scale=scale, bias=bias if loss == "sigmoid" else None)


def check_same_run(path: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    """Raise ``ValueError`` unless the checkpoint at ``path`` is of this configuration."""
    was, now = _flat(saved), _flat(plain(config))
    for name in sorted(was.keys() | now.keys()):
        if name not in _FREE and was.get(name) != now.get(name):
            raise ValueError(
                f"{path.parent} holds a run with {name} = {was.get(name)}, which cannot go on with "
                f"{now.get(name)}; choose another folder, or delete this one"
            )


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
