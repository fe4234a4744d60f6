"""Arms compared: differences between runs of the same seed, hence paired."""

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any, NamedTuple

from bench.joint.arms import Setting

_FEWEST_SEEDS = 3
_DEFAULT = Setting()

Runs = dict[str, dict[int, dict[str, Any]]]
"""The records of a setting, by arm and seed."""


class Difference(NamedTuple):
    """Between two arms, in points.

    Args:
        mean: Over seeds.
        error: The standard error; None below three seeds.
        seeds: How many.
    """

    mean: float
    error: float | None
    seeds: int

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2f}"
        return f"{self.mean:+.2f}{error} ({self.seeds})"


def grouped(records: Iterable[dict[str, Any]]) -> dict[Setting, Runs]:
    """The records by setting, arm and seed; the default setting first."""
    found: dict[Setting, Runs] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[Setting(**record["setting"])][record["arm"]][record["seed"]] = record
    return dict(sorted(found.items(), key=lambda item: item[0] != _DEFAULT))


def described(setting: Setting) -> str:
    """What differs from the default setting, in words."""
    changed = {
        name: value for name, value in vars(setting).items() if value != getattr(_DEFAULT, name)
    }
    words = {
        "batch_size": "batches of {:,}",
        "steps": "{:,} steps",
        "loss": "{} loss",
        "order": "{} together",
        "reference": "{} reference",
        "wrong": "{:.0%} wrong captions",
        "lr": "learning rate {:g}",
        "languages": "{} languages",
    }
    return ", ".join(words[name].format(value) for name, value in changed.items()) or "as it is"


def difference(runs: Runs, arm: str, other: str, metric: str) -> Difference | None:
    """Of the ends of two arms, over the seeds that both have; None without any."""
    both = sorted(runs.get(arm, {}).keys() & runs.get(other, {}).keys())
    points = [
        100 * (runs[arm][seed]["curve"][-1][metric] - runs[other][seed]["curve"][-1][metric])
        for seed in both
    ]
    if not points:
        return None
    error = stdev(points) / math.sqrt(len(points)) if len(points) >= _FEWEST_SEEDS else None
    return Difference(mean(points), error, len(points))


def fewer_steps(runs: Runs, arm: str) -> str:
    """The share of the steps after which the arm is where the uniform arm of its seed ends."""
    shares = []
    for seed in runs[arm].keys() & runs.get("uniform", {}).keys():
        goal = runs["uniform"][seed]["curve"][-1]["r1"]
        curve = runs[arm][seed]["curve"]
        reached = [point["step"] for point in curve if point["r1"] >= goal]
        if not reached:
            return "never"
        shares.append(reached[0] / curve[-1]["step"])
    return "" if arm == "uniform" or not shares else f"{mean(shares):.0%}"
