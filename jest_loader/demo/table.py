"""What the demo says on screen."""

from pathlib import Path
from typing import Any

from jest_loader.demo.data import DemoData


def announce(data: DemoData) -> None:
    """Say what is trained on what."""
    sizes = data.num_examples
    print(
        f"Data: real icons and their names, rendered from the 12 fonts in qtawesome.\n"
        f"  held out   {sizes['held_out']:6,} icons of a style never trained on (Phosphor), "
        f"{data.num_classes} names\n"
        f"  uncurated  {sizes['uncurated']:6,} icons of the 11 other fonts: the learner's; "
        f"{data.noise_fraction:.0%} of the captions\n"
        f"                    shuffled, the one thing added\n"
        f"  curated    {sizes['curated']:6,} of these icons with their own captions (Remix, "
        f"Font Awesome 6,\n"
        f"                    Elusive): the reference's\n"
        f"Held-out icons are those whose name, less a word of style, the other fonts know too.\n"
        f"Captions are a few words: this tests data selection, not language.\n"
    )


def report(out: Path, data: DemoData, results: dict[str, Any]) -> None:
    """Print the arms side by side, and where the files are."""
    runs = {**results["arms"], "curated only": results["reference"]}
    rows = [_HEADER, *(_row(name, run, runs["uniform"]) for name, run in runs.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    print()
    print("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]))
    print(
        f"\nAccuracy: zero-shot top-1 among {data.num_classes} names; chance is "
        f"{1 / data.num_classes:.2%}. Flops by the cost model.\n"
        f"Curated only is the reference: trained once, its embeddings cached, its cost shared by\n"
        f"independent and joint, which do not count it. One seed: bench/results has three.\n"
        f"Written: {out}/demo.json, curves.png, icons.png"
    )


_HEADER = (
    "selection",
    "accuracy",
    "top-5",
    "loaded",
    "scored",
    "trained",
    "flops",
    "seconds",
    "steps to uniform's accuracy",
)


def _row(name: str, run: dict[str, Any], uniform: dict[str, Any]) -> tuple[str, ...]:
    counts = run["counts"]
    reached = first_step(run, accuracy(uniform))
    return (
        name,
        f"{accuracy(run):.1%}",
        f"{run['evaluations'][-1]['metrics']['zero_shot_top5']:.1%}",
        f"{counts['loaded']:,}",
        f"{counts['scored']:,}",
        f"{counts['trained']:,}",
        f"{run['flops']:.1e}",
        f"{run['seconds']:.0f}",
        f"{reached:,} of {run['steps']:,}" if reached else "not reached",
    )


def accuracy(run: dict[str, Any]) -> float:
    """The zero-shot accuracy that a run ended with."""
    return float(run["evaluations"][-1]["metrics"]["zero_shot_top1"])


def first_step(run: dict[str, Any], target: float) -> int | None:
    """The first evaluation at which a run's zero-shot accuracy was at least ``target``."""
    steps = (e["step"] for e in run["evaluations"] if e["metrics"]["zero_shot_top1"] >= target)
    return next(steps, None)
