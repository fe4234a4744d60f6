r"""What is a sub-batch worth by each quota of ranks, and what do equal quotas cost any rule?

Quality only, simulated in one process on synthetic clusters, whose other members are the hard
negatives; a fifth of 5,120 candidates is chosen, over 16 super-batches. Candidates are dealt to the
ranks at random, or half of them by cluster. Learnability, per example, of:

- *global*, *equal*, *local*: the package's quotas. *global* is exact, so it does not depend on the
  number of ranks but by the order of the candidates, by whose numbers the noise goes; all ratios
  are to its mean over all orders.
- *one quota*: a rank may draw its whole share at any time: chunks are drawn from the candidates of
  all ranks that have room left. It is not in the package, since it is worth less.
- *redrawn*: *equal*, and then each chunk drawn once more given all others, which is twice the work
  and twice the bytes. It is not in the package; on one rank it is worth more too.
- *best found*: of all sub-batches with as many candidates from each rank, the best that a search
  finds (``bench.quotas.search``). On one rank there is no quota, so what the search loses over
  ranks is what equal numbers cost, whatever the rule. It is found, not proven: a lower bound.
- *moved*: the share of the sub-batch that the exact draw takes from ranks beyond their share.

    python -m bench.quotas --plot bench/results/quotas.png > bench/results/quotas_cpu.txt

The last line of the output is one JSON document.
"""

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from bench.harness import learnability, parser_of, print_document, pyplot, spread
from bench.quotas.clusters import Pair, dealt_clusters
from bench.quotas.rules import NUM_CHUNKS, by_one_quota, by_selector, redrawn
from bench.quotas.search import best_found
from jest_loader import IndependentSelector, JointSelector, UniformSelector

RULES = ("equal", "local", "one_quota", "redrawn", "best_found")


def main() -> None:
    """Compare rules and what quotas permit; print a table and one JSON document."""
    parser = parser_of(__doc__, smoke=True)
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    size, num_steps = (640, 1) if options.smoke else (5120, 16)
    numbers = (8,) if options.smoke else (2, 8, 16, 32, 64)
    places = [(1, 0.0), *((number, skew) for skew in (0.0, 0.5) for number in numbers)]
    rows = []
    for num_ranks, skew in places:
        rows.append(compared(num_ranks, skew, size, num_steps))
        print(line(rows[-1]), flush=True)
    exact = mean(row["learnability"]["global"]["mean"] for row in rows)
    print(f"in parts of the mean of global, {exact:.1f}:")
    for row in rows:
        row["of_global"] = {rule: row["learnability"][rule]["mean"] / exact for rule in RULES}
        parts = (f"{rule} {part:.2f}" for rule, part in row["of_global"].items())
        print(f"{row['ranks']:2d} ranks, {row['skew']:.0%} by cluster:", *parts)
    if options.plot is not None:
        plot(rows, exact, options.plot)
    print_document({"candidates": size, "super_batches": num_steps, "global": exact, "rows": rows})


def compared(num_ranks: int, skew: float, size: int, num_steps: int) -> dict[str, Any]:
    """What each rule's sub-batches, a fifth of a super-batch, are worth, and the rows moved."""
    share = size // 5 // num_ranks
    found: dict[str, list[float]] = defaultdict(list)
    moved = []
    for seed in range(num_steps):
        pair = dealt_clusters(size, num_ranks, skew, seed)
        chosen, surplus = chosen_by_rule(pair, num_ranks, share, seed)
        for rule, index in chosen.items():
            found[rule].append(learnability(pair, index, "sigmoid"))
        moved.append(surplus / (share * num_ranks))
    worth = {rule: spread(values) | {"mean": mean(values)} for rule, values in found.items()}
    return {"ranks": num_ranks, "skew": skew, "learnability": worth, "moved": mean(moved)}


def chosen_by_rule(
    pair: Pair, num_ranks: int, share: int, seed: int
) -> tuple[dict[str, Tensor], int]:
    """The sub-batch by each rule, and how many rows the exact draw takes beyond ranks' shares."""
    arguments = (pair, num_ranks, share, seed)
    exact, equal, local = (
        by_selector(JointSelector(NUM_CHUNKS, quota=quota), *arguments)
        for quota in ("global", "equal", "local")
    )
    chosen = {
        "global": torch.cat(exact),
        "equal": torch.cat(equal),
        "local": torch.cat(local),
        "one_quota": by_one_quota(*arguments),
        "redrawn": redrawn(pair, torch.stack(equal), seed),
        "best_found": best_found(pair, num_ranks, share),
    }
    if num_ranks == 1:
        for name, selector in (
            ("uniform", UniformSelector()),
            ("independent", IndependentSelector()),
        ):
            chosen[name] = torch.cat(by_selector(selector, *arguments))
    return chosen, sum(max(0, len(index) - share) for index in exact)


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    worth = (f"{rule} {value['mean']:.1f}" for rule, value in row["learnability"].items())
    place = f"{row['ranks']:2d} ranks, {row['skew']:.0%} by cluster:"
    return " ".join((place, *worth, f"moved {row['moved']:.1%}"))


def plot(rows: list[dict[str, Any]], exact: float, path: Path) -> None:
    """Learnability over the number of ranks, dealt at random and half by cluster."""
    figure, panels = pyplot().subplots(1, 2, figsize=(10, 4), sharey=True)
    names = {
        "best_found": ("best found with equal numbers", "tab:green"),
        "redrawn": ("equal, chunks drawn twice", "tab:purple"),
        "equal": ("equal (the default)", "tab:blue"),
        "one_quota": ("one quota for the sub-batch", "tab:orange"),
        "local": ("local", "tab:red"),
    }
    alone = rows[0]["learnability"]
    for axes, skew in zip(panels, (0.0, 0.5), strict=True):
        axes.axhline(exact, color="grey", label="global (exact)")
        axes.axhline(alone["uniform"]["mean"], color="grey", linestyle=":", label="uniform")
        here = [row for row in rows if row["ranks"] == 1 or row["skew"] == skew]
        for rule, (label, colour) in names.items():
            values = [row["learnability"][rule]["mean"] for row in here]
            axes.plot([row["ranks"] for row in here], values, "o-", color=colour, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("ranks")
        axes.set_title("candidates dealt at random" if skew == 0 else "half dealt by cluster")
    panels[0].set_ylabel("learnability of the sub-batch, per example")
    panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
