"""The process of one part: it tells its figures to the one that started it, a line for each."""

import json
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bench.device import Device, interpret_quickly
from bench.gpu.parts import Setting
from jest_loader.files import finite


def run_part(name: str, *, smoke: bool, done: Sequence[str]) -> None:
    """Run a part; what it and its libraries print goes to the standard error.

    Args:
        name: The part.
        smoke: Whether sizes are tiny, on a CPU.
        done: Keys of the figures that are known.
    """
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(key: str, figure: Any) -> None:
        print(json.dumps([key, finite(figure)]), file=lines, flush=True)

    interpret_quickly()
    setting = Setting(Device("cpu" if smoke else "cuda"), smoke, frozenset(done), tell)
    import_module(f"bench.gpu.{name}").run(setting)
