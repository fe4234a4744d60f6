"""The options as names and plain values, for checkpoints and messages."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jest_loader.clip.config.train import DataConfig, TrainConfig


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def default_options() -> dict[str, Any]:
    """Every option by its dotted name, as JSON values."""
    return flat(plain(TrainConfig(DataConfig(Path()), Path())))


def flat(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """The values within nested mappings, by the names on the way to each."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner = flat(value, separator)
            values |= {f"{name}{separator}{rest}": leaf for rest, leaf in inner.items()}
        else:
            values[name] = value
    return values
