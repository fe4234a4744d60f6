"""What is measured of the runs of ``bench.training``; ``bench.training.report`` says how."""

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from bench.harness import ratios
from bench.training.arms import ARMS, Bench
from jest_loader.demo.table import accuracy
from jest_loader.reference_cache.format import read_manifest

Runs = dict[str, list[dict[str, Any]]]
_SPENT = 0.97  # Of the uniform arm's flops: a run that took less is not one of equal flops.


def read(folder: Path) -> dict[str, Runs]:
    """Finished runs by setting and arm, in the order of ``ARMS``."""
    found: dict[str, Runs] = {}
    for path in sorted(folder.glob("noise-*")):
        runs = defaultdict(list)
        for arm in ARMS:
            for metrics in sorted(path.glob(f"{arm}/seed-*/metrics.json")):
                run = read_run(metrics.parent)
                if run["finished"]:
                    runs[arm].append(run)
        if runs["uniform"]:
            found[path.name] = dict(runs)
    return found


def read_run(folder: Path) -> dict[str, Any]:
    """A run's ``metrics.json``, and in ``spent`` the flops by each step that its log tells of."""
    run: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    # A run that went on from a checkpoint may log a step twice.
    spent = {record["step"]: record["flops"] for record in records if "flops" in record}
    return run | {"spent": sorted(spent.items())}


def read_references(folder: Path) -> dict[str, dict[str, float]]:
    """What each reference reached, and what it took, by its data and loss: "curated-sigmoid"."""
    found = {}
    for metrics in sorted(folder.glob("references/*/metrics.json")):
        run, path = json.loads(metrics.read_text()), metrics.parent
        if not run["finished"]:
            continue
        # Training is three forward passes; all caches are of the same number of rows.
        forward = run["flops"] / run["counts"]["trained"] / 3
        cache = next(path.glob("cache_*"), None)
        num_rows = 0 if cache is None else read_manifest(cache).num_rows
        found[path.name] = {
            "top1": accuracy(run),
            "flops": run["flops"],
            "cache_flops": forward * num_rows,
        }
    return found


def slower_than_uniform(times: dict[str, Any]) -> dict[str, float]:
    """How many times as long as the uniform arm's a step of an arm takes: the median of rounds.

    Arms of the same selection take the same.
    """
    taken = times["step_ms"]
    known = {
        ARMS[arm].selection: median(ratios(found, taken["uniform"])) for arm, found in taken.items()
    }
    return {name: known[arm.selection] for name, arm in ARMS.items() if arm.selection in known}


def measured(
    runs: Runs, slower: dict[str, float], reference_flops: float
) -> dict[str, dict[str, Any]]:
    """What each arm's seeds reached, and when they passed the uniform arm.

    Args:
        runs: Runs of one setting.
        slower: How many times as long as the uniform arm's a step of an arm takes, where known.
        reference_flops: Flops that train the reference and cache it.
    """
    uniform = runs["uniform"]
    goal = mean(accuracy(run) for run in uniform)
    budget, steps = mean(run["flops"] for run in uniform), uniform[0]["steps"]
    return {
        arm: measured_arm(
            seeds,
            goal=None if arm == "uniform" else goal,
            budget=budget,
            num_steps=steps,
            slower=slower.get(arm),
            once=reference_flops if uses_reference(arm) else 0.0,
        )
        for arm, seeds in runs.items()
    }


def measured_arm(
    seeds: list[dict[str, Any]],
    *,
    goal: float | None,
    budget: float,
    num_steps: int,
    slower: float | None,
    once: float,
) -> dict[str, Any]:
    """The measures of one arm, a value for each seed.

    Args:
        seeds: The arm's runs.
        goal: The accuracy to reach; None for the uniform arm, which sets it.
        budget: Flops of a uniform run.
        num_steps: Steps of a uniform run.
        slower: The time of a step over the uniform arm's; None if unknown.
        once: Flops spent once, ahead of all runs.
    """
    reached = [None if goal is None else first_step(run, goal) for run in seeds]
    fewer = [num_steps / step if step else None for step in reached]
    spent = [
        flops_until(run, step) if step else None for run, step in zip(seeds, reached, strict=True)
    ]
    return {
        "top1": [accuracy(run) for run in seeds],
        "top1_at_equal_flops": [at_flops(run, budget) for run in seeds],
        "retrieval_r10": [run["evaluations"][-1]["metrics"]["retrieval_r10"] for run in seeds],
        "steps_to_goal": reached,
        "fewer_steps": fewer,
        "fewer_flops": [budget / flops if flops else None for flops in spent],
        "fewer_flops_with_reference": [
            budget / (flops + once) if flops else None for flops in spent
        ],
        "less_time": [ratio / slower if ratio and slower else None for ratio in fewer],
        "overhead": seeds[0]["flops"] / seeds[0]["steps"] / (budget / num_steps),
        "shuffled": [over_the_run(run, shuffled_of) for run in seeds],
        "as_independent": [over_the_run(run, overlap_of) for run in seeds],
        "counts": seeds[0]["counts"],
    }


def uses_reference(arm: str) -> bool:
    """Whether an arm needed the reference, for scores or to choose its data ahead."""
    return ARMS[arm].scores_with_reference or ARMS[arm].subset in (Bench.filtered, Bench.pruned)


def first_step(run: dict[str, Any], goal: float) -> int | None:
    """The step of the first of two evaluations in a row at the goal, or of the last one there."""
    reached = [e["metrics"]["zero_shot_top1"] >= goal for e in run["evaluations"]]
    for evaluation, (now, then) in zip(run["evaluations"], pairwise([*reached, True]), strict=True):
        if now and then:
            return int(evaluation["step"])
    return None


def flops_until(run: dict[str, Any], step: int) -> float:
    """What a run spent until then, in between what its log says."""
    steps, flops = zip((0, 0.0), *run["spent"], strict=True)
    return float(np.interp(step, steps, flops))


def at_flops(run: dict[str, Any], budget: float) -> float | None:
    """The accuracy at the last evaluation within the flops; None if the run took fewer."""
    if run["flops"] < _SPENT * budget:
        return None
    before = [e for e in run["evaluations"] if flops_until(run, e["step"]) <= budget]
    return float(before[-1]["metrics"]["zero_shot_top1"])


def over_the_run(
    run: dict[str, Any], value_of: Callable[[dict[str, Any]], float | None]
) -> float | None:
    """The mean over a run's evaluations by the steps since the one before; None if unknown."""
    steps: list[int] = [0, *(evaluation["step"] for evaluation in run["evaluations"])]
    values = [value_of(evaluation) for evaluation in run["evaluations"]]
    known = [
        (value, after - before)
        for value, (before, after) in zip(values, pairwise(steps), strict=True)
        if value is not None
    ]
    if not known:
        return None
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def shuffled_of(evaluation: dict[str, Any]) -> float | None:
    """The share of wrong captions among what was trained on since the evaluation before."""
    share: float | None = evaluation["watched"].get("shuffled")
    return share


def overlap_of(evaluation: dict[str, Any]) -> float | None:
    """The share of the last sub-batch that independent selection would have chosen too."""
    share: float | None = (evaluation["selection"] or {}).get("independent_overlap")
    return share
