"""Arms compared: differences between runs of the same seed, hence paired."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
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
    """The records by setting, arm and seed; the default first, then its reference's.

    Uniform runs need no reference, so those of one reference are those of all.
    """
    found: dict[Setting, Runs] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[Setting(**record["setting"])][record["arm"]][record["seed"]] = record
    for setting, runs in list(found.items()):
        same = replace(setting, reference=_DEFAULT.reference)
        if "uniform" not in runs and "uniform" in found.get(same, {}):
            runs["uniform"] = found[same]["uniform"]
    return dict(
        sorted(
            found.items(),
            key=lambda item: (item[0] != _DEFAULT, item[0].reference != _DEFAULT.reference),
        )
    )


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
    return (
        ", ".join(words[name].format(value) for name, value in changed.items())
        or "batches of 512, strong reference"
    )


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


def share_of_steps(runs: Runs, arm: str) -> float | None:
    """Where an arm is as good as the uniform arm ever is, over where that is; None if it never is.

    The mean over seeds; between evaluations accuracy is taken to grow in a line.
    """
    shares = []
    for seed in runs[arm].keys() & runs.get("uniform", {}).keys():
        uniform = runs["uniform"][seed]["curve"]
        best = max(uniform, key=lambda point: float(point["r1"]))
        reached = _reached(runs[arm][seed]["curve"], best["r1"])
        if reached is None:
            return None
        shares.append(reached / best["step"])
    return mean(shares) if shares else None


def _reached(curve: list[dict[str, float]], goal: float) -> float | None:
    """The step at which a curve from (0, 0) first is at the goal; None if it never is."""
    if goal == 0:
        return 0.0
    points = [(0.0, 0.0), *((point["step"], point["r1"]) for point in curve)]
    for (start, low), (end, high) in pairwise(points):
        if high >= goal:
            return start + (end - start) * (goal - low) / (high - low)
    return None
