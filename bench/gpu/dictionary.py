"""The map's points at large batches, in the time that is left: joint against independent.

Regime: that of ``bench.joint``, on the GPU, with sub-batches of 8,192 and 32,768, more than is
feasible on a CPU, chosen from five times as many. Runs under way are saved, and continued.
"""

import subprocess
import sys
from itertools import product
from typing import Any

from bench.gpu.parts import OutOfTime, Setting
from bench.joint.records import read

STEPS = {8192: 300, 32_768: 150}
"""Of a run, by the size of its sub-batches."""
SMOKE_STEPS = {8: 2}
ARMS = ("uniform", "independent-1", "joint-1", "joint-4")
RECORDS = "joint.jsonl"
_SEEDS = (0, 1, 2)
_LEAST_S = 25.0
_SPARE_S = 15.0
"""For the reference and what else comes before the first run, and for saving the last one."""


def run(setting: Setting) -> None:
    """Make the runs that there is time for; each is a figure, by size, arm and seed.

    Raises:
        OutOfTime: if some are still to be made.
    """
    steps = SMOKE_STEPS if setting.smoke else STEPS
    seeds = _SEEDS[:1] if setting.smoke else _SEEDS
    for seed, batch_size in product(seeds, steps):
        names = [f"{batch_size} {arm} seed {seed}" for arm in ARMS]
        if setting.done.issuperset(names):
            continue
        if setting.seconds_left < _LEAST_S:
            raise OutOfTime
        made = command(setting, batch_size, steps[batch_size], seed)
        subprocess.run(made, check=True, stdout=sys.stderr)
        found = recorded(setting, batch_size, seed)
        for name in names:
            if name in found and name not in setting.done:
                setting.tell(name, found[name])
        if len(found) < len(names):
            raise OutOfTime


def command(setting: Setting, batch_size: int, steps: int, seed: int) -> list[str]:
    """What makes the runs of a size and a seed that are missing."""
    seconds = max(1.0, setting.seconds_left - _SPARE_S)
    return [
        *(sys.executable, "-m", "bench.joint", "--device", setting.device.type),
        *("--data", str(setting.data), "--out", str(setting.out / "joint")),
        *("--records", str(setting.out / RECORDS), "--max-seconds", f"{seconds:.0f}"),
        *("--batch-size", str(batch_size), "--steps", str(steps), "--seeds", str(seed)),
        *("--reference", "weak" if setting.smoke else "strong", "--arms", *ARMS),
    ]


def recorded(setting: Setting, batch_size: int, seed: int) -> dict[str, dict[str, Any]]:
    """What each arm reached at the end of its run, and the share of wrong captions it took."""
    found = {}
    for record in read(setting.out / RECORDS):
        if record["setting"]["batch_size"] == batch_size and record["seed"] == seed:
            end = record["curve"][-1]
            reached = {name: end[name] for name in ("step", "r1", "r10", "fine")}
            found[f"{batch_size} {record['arm']} seed {seed}"] = {
                **reached,
                "wrong": record["wrong"],
                "reference_r1": record["reference_accuracy"]["r1"],
            }
    return found
