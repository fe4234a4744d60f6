r"""What the runs of ``bench.training`` show: tables, curves, and when arms passed the uniform one.

    python -m bench.training.report --runs runs/training \
        --times bench/results/training_times.txt --plot bench/results/training.png \
        > bench/results/training.txt

The goal is the mean final accuracy of the uniform arm's seeds. A run has reached it at the first of
two evaluations in a row that are at least as good, or at its last evaluation. Learning rates fall
to zero over a run, so a long run still has a high one where it passes the goal, and the first
passing of a noisy curve comes early. Arms with fewer steps end there, which avoids both faults. All
ratios are to the arm ``uniform`` of the same setting.

Flops come from the cost model. Time is the number of steps times the time of a step from
``bench.training.times``, in the setting measured there. Neither includes the reference; "with the
reference" adds its training and the forward passes of its cache in full, as if for one run. The
last line of the output is one JSON document.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from bench.harness import parser_of, print_document
from bench.training.arms import ARMS
from bench.training.figure import draw
from bench.training.measures import measured, read, read_references, slower_than_uniform


def main() -> None:
    """Print the tables and draw the curves."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--times", type=Path, help="what bench.training.times wrote")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    found = read(arguments.runs)
    references = read_references(arguments.runs)
    for name, reference in references.items():
        print(
            f"reference {name}: top-1 {reference['top1']:.1%}, {reference['flops']:.1e} flops to "
            f"train, {reference['cache_flops']:.1e} to cache"
        )
    # They differ in data and loss alone, so one costs what the others do.
    reference_flops = max(one["flops"] + one["cache_flops"] for one in references.values())
    times = json.loads(arguments.times.read_text().splitlines()[-1]) if arguments.times else {}
    measures = {
        setting: measured(
            runs,
            slower_than_uniform(times) if times.get("setting") == setting else {},
            reference_flops,
        )
        for setting, runs in found.items()
    }
    for setting, rows in measures.items():
        print("\n".join(["", setting, *table(rows)]))
    curves = {
        setting: {arm: [summary(run) for run in runs] for arm, runs in arms.items()}
        for setting, arms in found.items()
    }
    if arguments.plot:
        draw(curves, arguments.plot)
    print()
    print_document({"references": references, "measures": measures, "curves": curves})


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each arm: means, and the least and most of its seeds."""
    cells = [
        ("arm", "seeds", "top-1", "at equal flops", "steps to goal", "fewer", "fewer flops",
         "with the reference", "less time", "flops per step", "wrong captions", "as independent")
    ]  # fmt: skip
    for arm, row in rows.items():
        is_goal = arm == "uniform"
        reached = ", ".join(str(step or "never") for step in row["steps_to_goal"])
        cells.append(
            (
                ARMS[arm].about,
                str(len(row["top1"])),
                percent(row["top1"]),
                percent(row["top1_at_equal_flops"]),
                "" if is_goal else reached,
                "" if is_goal else times(row["fewer_steps"]),
                "" if is_goal else times(row["fewer_flops"]),
                "" if is_goal else times(row["fewer_flops_with_reference"]),
                times(row["less_time"]) if any(row["less_time"]) else "",
                f"{row['overhead']:.2f} x",
                percent(row["shuffled"]),
                percent(row["as_independent"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def percent(values: list[float | None]) -> str:
    """``12.3 % (11.0-13.1)``; nothing where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{100 * mean(known):.1f} %"
    if len(known) > 1:
        text += f" ({100 * min(known):.1f}-{100 * max(known):.1f})"
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
    """The value to four decimal places."""
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
