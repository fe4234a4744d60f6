r"""What the runs of ``bench.joint`` showed: a table for each setting, the map and curves.

    python -m bench.joint.report --plot bench/results/joint.png > bench/results/joint.txt

Differences are paired: between arms with the same seed, hence the same first weights, wrong
captions and order. The error is the standard deviation of the differences over the square root of
the number of seeds; it is left out below three seeds.
"""

import math
from pathlib import Path
from statistics import mean

from bench.harness import parser_of, print_document
from bench.joint.arms import ARMS, GAINS, Setting
from bench.joint.compare import Difference, Runs, described, difference, grouped, share_of_steps
from bench.joint.figure import draw
from bench.joint.records import RECORDS, read

_SHARES = {"wrong": "wrong", "seen": "seen", "German": "german"}
_METRICS = {"r1": "R@1", "r10": "R@10", "fine": "form in its line"}


def main() -> None:
    """Print the tables; draw the figure."""
    parser = parser_of(__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    by_setting = grouped(read(arguments.records))
    for setting, runs in by_setting.items():
        print("\n".join(table(setting, runs)), end="\n\n")
    if arguments.plot is not None:
        draw(by_setting, arguments.plot)
    print_document(
        {"joint_less_independent": {described(s): compared(r) for s, r in by_setting.items()}}
    )


def table(setting: Setting, runs: Runs) -> list[str]:
    """Of one setting: each arm, then joint less independent selection."""
    first = next(iter(next(iter(runs.values())).values()))
    lines = [f"{described(setting)}; the reference's R@1 {first['reference_accuracy']['r1']:.1%}"]
    lines.append(
        " ".join(f"{title:>7s}" for title in ("R@1", "R@10", "form", *_SHARES, "alike")).rjust(71)
        + "  R@1 less uniform     steps to uniform's best"
    )
    for arm in (name for name in ARMS if name in runs):
        ends = [record["curve"][-1] for record in runs[arm].values()]
        shares = [mean(end[name] for end in ends) for name in _METRICS]
        records = list(runs[arm].values())
        shares += [mean(record[name] for record in records) for name in _SHARES.values()]
        alike = [share for record in records for share in record["near_duplicates"]]
        shares.append(mean(alike) if alike else math.nan)
        cells = " ".join("      -" if math.isnan(share) else f"{share:7.1%}" for share in shares)
        gained = "" if arm == "uniform" else str(difference(runs, arm, "uniform", "r1") or "")
        share = share_of_steps(runs, arm)
        reached = "never" if share is None else f"{share:.0%}"
        lines.append(f"  {arm:14s} {cells}  {gained:20s} {reached}")
    for gain, found in compared(runs).items():
        cells = ", ".join(f"{title} {value}" for title, value in found.items())
        lines.append(f"  joint less independent, gain {gain}: {cells}")
    return lines


def compared(runs: Runs) -> dict[int, dict[str, Difference]]:
    """Joint less independent selection, by gain and metric, where a setting has both."""
    found = {
        gain: {
            title: difference(runs, f"joint-{gain}", f"independent-{gain}", metric)
            for metric, title in _METRICS.items()
        }
        for gain in GAINS
    }
    return {
        gain: {title: value for title, value in by_metric.items() if value is not None}
        for gain, by_metric in found.items()
        if any(by_metric.values())
    }


if __name__ == "__main__":
    main()
