r"""What the runs of ``training.py`` show: a table, curves, and when arms passed the uniform one.

    PYTHONPATH=. python bench/training_report.py --runs runs/training \
        --times bench/results/training_times.txt --plot bench/results/training.png \
        > bench/results/training.txt

An arm has reached the goal at its first evaluation that is at least as good as the mean of the
uniform arm's last ones. Its learning rate is then still high, where the uniform arm's has gone to
zero: the comparison favours the uniform arm. The arms of a part of the steps have one that falls to
zero in those. Flops are those of the cost model; time is steps times what one takes by
``training_times.py``. The reference is in neither; what its training cost is given beside, and its
cache is a forward pass of each example. The last line of the output is one JSON document.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from harness import environment
from training import ARMS

from jest_loader.demo.table import accuracy, first_step

Runs = dict[str, list[dict[str, Any]]]
_DRAWN = ("uniform", "independent", "joint", "flexi", "easy")


def main() -> None:
    """Print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--times", type=Path, help="what training_times.py wrote")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    found = read(arguments.runs)
    reference = json.loads((arguments.runs / "reference" / "metrics.json").read_text())
    print(f"reference: top-1 {accuracy(reference):.1%}, {reference['flops']:.1e} flops\n")
    slower = {} if arguments.times is None else read_times(arguments.times)
    measures = {setting: measured(runs, slower) for setting, runs in found.items()}
    for setting, rows in measures.items():
        print("\n".join([setting, *table(rows), ""]))
    if arguments.plot:
        draw(found, arguments.plot)
    print(
        json.dumps(
            {
                "environment": environment(),
                "reference": summary(reference),
                "measures": measures,
                "curves": {
                    setting: {arm: [summary(run) for run in runs] for arm, runs in arms.items()}
                    for setting, arms in found.items()
                },
            }
        )
    )


def read(folder: Path) -> dict[str, Runs]:
    """Finished runs by setting and arm, in the order of ``ARMS``."""
    found: dict[str, Runs] = {}
    for path in sorted(folder.glob("noise-*")):
        runs = defaultdict(list)
        for arm in ARMS:
            for metrics in sorted(path.glob(f"{arm}/seed-*/metrics.json")):
                run = json.loads(metrics.read_text())
                if run["finished"]:
                    runs[arm].append(run)
        if runs["uniform"]:
            found[path.name] = dict(runs)
    return found


def read_times(path: Path) -> dict[str, float]:
    """How many times as long as the uniform arm's a step of an arm takes: the median of rounds."""
    taken = json.loads(path.read_text().splitlines()[-1])["step_ms"]
    return {
        arm: median(one / uniform for one, uniform in zip(found, taken["uniform"], strict=True))
        for arm, found in taken.items()
    }


def measured(runs: Runs, slower: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Of each arm, what its seeds reached and when they passed the uniform arm.

    Args:
        runs: Of one setting.
        slower: How many times as long as the uniform arm's a step of an arm takes, where known.
    """
    uniform = runs["uniform"]
    goal = mean(accuracy(run) for run in uniform)
    budget, steps = mean(run["flops"] for run in uniform), uniform[0]["steps"]
    rows = {}
    for arm, seeds in runs.items():
        reached = [first_step(run, goal) for run in seeds]
        flops_per_step = seeds[0]["flops"] / seeds[0]["steps"]
        fewer = [steps / step if step else None for step in reached]
        rows[arm] = {
            "top1": [accuracy(run) for run in seeds],
            "top1_at_equal_flops": [
                at_step(run, min(run["steps"], budget / flops_per_step)) for run in seeds
            ],
            "retrieval_r10": [run["evaluations"][-1]["metrics"]["retrieval_r10"] for run in seeds],
            "steps_to_goal": reached,
            "fewer_steps": fewer,
            "fewer_flops": [budget / (flops_per_step * step) if step else None for step in reached],
            "less_time": [
                ratio / slower[arm] if ratio and arm in slower else None for ratio in fewer
            ],
            "overhead": flops_per_step / (budget / steps),
            "shuffled": [run["evaluations"][-1]["watched"].get("shuffled") for run in seeds],
            "as_independent": [overlap(run) for run in seeds],
            "counts": seeds[0]["counts"],
        }
    return rows


def at_step(run: dict[str, Any], step: float) -> float:
    """The accuracy at the last evaluation that was not after ``step``."""
    before = [e for e in run["evaluations"] if e["step"] <= step]
    return float(before[-1]["metrics"]["zero_shot_top1"]) if before else 0.0


def overlap(run: dict[str, Any]) -> float | None:
    """Share of the sub-batches that independent selection would have chosen too, where known."""
    stats = [evaluation["selection"] or {} for evaluation in run["evaluations"]]
    found = [kept["independent_overlap"] for kept in stats if kept.get("independent_overlap")]
    return mean(found) if found else None


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each arm: means, and the least and most of its seeds."""
    cells = [
        ("arm", "seeds", "top-1", "at equal flops", "steps to goal", "fewer", "fewer flops",
         "less time", "flops per step", "wrong captions", "as independent")
    ]  # fmt: skip
    for arm, row in rows.items():
        cells.append(
            (
                ARMS[arm].about,
                str(len(row["top1"])),
                percent(row["top1"]),
                percent(row["top1_at_equal_flops"]),
                ", ".join(str(step or "never") for step in row["steps_to_goal"]),
                times(row["fewer_steps"]),
                times(row["fewer_flops"]),
                times(row["less_time"]) if any(row["less_time"]) else "",
                f"{row['overhead']:.2f} x",
                percent(row["shuffled"]),
                percent(row["as_independent"]) if None not in row["as_independent"] else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def percent(values: list[float]) -> str:
    """``12.3 % (11.0-13.1)``."""
    text = f"{100 * mean(values):.1f} %"
    if len(values) > 1:
        text += f" ({100 * min(values):.1f}-{100 * max(values):.1f})"
    return text


def times(values: list[float | None]) -> str:
    """``3.2 x (2.9-4.0)``; never, if one of the seeds never reached the goal."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "never"
    text = f"{len(known) / sum(1 / value for value in known):.1f} x"
    if len(known) > 1:
        text += f" ({min(known):.1f}-{max(known):.1f})"
    return text


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """What is committed of a run: its curves, rounded, and what it took."""
    evaluations = run["evaluations"]
    stats = [evaluation["selection"] or {} for evaluation in evaluations]
    return {
        "seed": run["config"]["seed"],
        "steps": run["steps"],
        "flops": run["flops"],
        "seconds": round(run["seconds"]),
        "counts": run["counts"],
        "step": [evaluation["step"] for evaluation in evaluations],
        "top1": [round(e["metrics"]["zero_shot_top1"], 4) for e in evaluations],
        "shuffled": [round(e["watched"].get("shuffled", 0), 4) for e in evaluations],
        "score": [rounded(found.get("score")) for found in stats],
        "uniform_score": [rounded(found.get("uniform_score")) for found in stats],
    }


def rounded(value: float | None) -> float | None:
    """To four places."""
    return None if value is None else round(value, 4)


def draw(found: dict[str, Runs], path: Path) -> None:
    """Accuracy over steps and over flops, the score of what was chosen, and wrong captions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(len(found), 4, figsize=(20, 4 * len(found)), squeeze=False)
    for row, (setting, arms) in zip(grid, found.items(), strict=True):
        for colour, arm in enumerate(_DRAWN):
            for seed, run in enumerate(arms.get(arm, [])):
                style = {"color": f"C{colour}", "label": ARMS[arm].about if seed == 0 else None}
                kept = summary(run)
                flops = [step * kept["flops"] / kept["steps"] for step in kept["step"]]
                row[0].plot(kept["step"], kept["top1"], **style)
                row[1].plot(flops, kept["top1"], **style)
                if kept["score"][-1] is not None:
                    row[2].plot(kept["step"], kept["score"], **style)
                row[3].plot(kept["step"], kept["shuffled"], **style)
        titles = ("training steps", "flops (cost model)", "training steps", "training steps")
        labels = ("zero-shot top-1", "zero-shot top-1", "score of the sub-batch", "wrong captions")
        for axes, along, label in zip(row, titles, labels, strict=True):
            axes.set(xlabel=along, ylabel=f"{label} ({setting})")
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
