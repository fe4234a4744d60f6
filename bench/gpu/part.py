"""The process of one part: it tells its figures to the one that started it, a line for each."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.device import Device, interpret_quickly
from bench.gpu.parts import OutOfTime, Setting
from jest_loader.files import finite

OUT_OF_TIME = 3
"""The exit status of a part some of whose figures are still to be measured."""


def run_part(
    name: str,
    *,
    smoke: bool,
    out: Path,
    data: Path | None,
    done: Sequence[str],
    limit_s: float,
) -> None:
    """Run a part; what it and its libraries print goes to the standard error.

    Args:
        name: The part.
        smoke: Whether sizes are tiny, on a CPU.
        out: The folder of the results.
        data: The folder of the dictionary; None for none.
        done: Keys of the figures that are known.
        limit_s: Seconds after which it is stopped.
    """
    ends_at = time.monotonic() + limit_s
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(key: str, figure: Any) -> None:
        print(json.dumps([key, finite(figure)]), file=lines, flush=True)

    interpret_quickly()
    device = Device("cpu" if smoke else "cuda")
    setting = Setting(device, smoke, out, data, frozenset(done), ends_at, tell)
    try:
        import_module(f"bench.gpu.{name}").run(setting)
    except OutOfTime:
        sys.exit(OUT_OF_TIME)


def _end_with_parent() -> None:
    """End this process and what it has started once the one that started it is gone."""
    os.read(0, 1)  # Nothing is ever sent: it returns at the end.
    os.killpg(0, signal.SIGKILL)
