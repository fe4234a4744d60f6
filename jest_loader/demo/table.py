"""What the demo says on screen."""

from pathlib import Path
from typing import Any

import torch

from jest_loader.clip.config.presets import preset
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.demo.data import DemoData
from jest_loader.demo.plan import FILTER_RATIO, SELECTING, STOP_FRACTION, Plan

_NAMES = {"curated": "curated only"}
_HEADER = (
    "trained by",
    "accuracy",
    "queries",
    "steps",
    "to uniform's",
    "wrong",
    "flops",
    "seconds",
)


def begin(out: Path) -> None:
    """Say at once that something happens, and where."""
    print(f"jest-loader demo in {out}: rendering 24,606 icons, a few seconds ...", flush=True)


def announce(data: DemoData, planned: Plan, device: torch.device, seconds_left: float) -> None:
    """Say what will run, before the first step."""
    config = preset("demo", data.uncurated, Path())
    model = trained_architecture(config).build(config.loss, logit_scale=10.0, logit_bias=-5.0)
    weights = sum(parameter.numel() for parameter in model.parameters())
    sizes, steps, batch_size = data.num_examples, planned.steps, config.data.batch_size
    candidates = round(batch_size / (1 - FILTER_RATIO))
    runs = ", ".join(f"{_NAMES.get(arm, arm)} {count}" for arm, count in steps.items())
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    print(
        f"Data: real icons and their names, from the fonts in the package qtawesome.\n"
        f"  uncurated  {sizes['uncurated']:6,}  Material Design, Font Awesome, Remix; "
        f"{data.noise_fraction:.0%} of the captions\n"
        f"                     shuffled, the one thing added: the learner's\n"
        f"  curated    {sizes['curated']:6,}  Codicons, Elusive: the reference's\n"
        f"  held out   {sizes['held_out']:6,}  Phosphor, a style never trained on: which of "
        f"{data.num_classes} names?\n"
        f"No drawing is in two of the sets. Captions are a few words: this tests data\n"
        f"selection, not language.\n"
        f"Model: {weights / 1e6:.1f} M weights, convolutions on {config.model.image_size} x "
        f"{config.model.image_size} grey pixels, averaged words.\n"
        f"Runs, by steps: the reference {planned.reference_steps}; then\n"
        f"  {runs}:\n"
        f"  the same operations each, the reference's counted. Those that select take\n"
        f"  {batch_size} of {candidates:,} candidates until half-way, then all.\n"
        f"Device: {device}{threads}; about {seconds_left / 60 + 0.5:.0f} minutes to go.\n",
        flush=True,
    )


def report(out: Path, data: DemoData, results: dict[str, Any]) -> None:
    """Print the conclusion, the arms side by side, and where the files are."""
    rows = [_HEADER, *(_row(arm, results) for arm in results["arms"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    print(f"\n{conclusion(results)}\n")
    print("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]))
    print(
        f"\n"
        f"Accuracy: the first of {data.num_classes} names is right; chance is "
        f"{1 / data.num_classes:.2%}. Queries: of {len(results['queries'])},\n"
        f"how many have a right icon among the first four. To uniform's: steps to where\n"
        f"uniform ends. Wrong: shuffled captions among those trained on, while an arm\n"
        f"selects. Flops: by the cost model, with the reference's; seconds without its.\n"
        f"The reference itself: {accuracy(results['reference']):.1%}. One seed: "
        f"bench/results/demo_seeds.txt has three.\n"
        f"Written to {out}: demo.json, curves.png, found.png, chosen.png"
    )


def conclusion(results: dict[str, Any]) -> str:
    """What came out, in two lines."""
    joint, uniform, curated = (
        accuracy(results["arms"][arm]) for arm in ("joint", "uniform", "curated")
    )
    verb = "names" if joint > max(uniform, curated) else "did not win here: it names"
    return (
        f"Joint selection {verb} {joint:.1%} of the held-out icons right,\n"
        f"uniform sampling {uniform:.1%}, the curated set alone {curated:.1%}, "
        "by as many operations."
    )


def _row(arm: str, results: dict[str, Any]) -> tuple[str, ...]:
    run, uniform = results["arms"][arm], results["arms"]["uniform"]
    reached = first_step(run, accuracy(uniform))
    return (
        _NAMES.get(arm, arm),
        f"{accuracy(run):.1%}",
        str(results["found"][arm]),
        f"{run['steps']:,}",
        f"{reached:,}" if reached else "never",
        f"{wrong_fraction(arm, run):.0%}",
        f"{results['flops'][arm]:.1e}",
        f"{run['seconds']:.0f}",
    )


def wrong_fraction(arm: str, run: dict[str, Any]) -> float:
    """The share of shuffled captions among those trained on, while an arm selects if it does."""
    until = STOP_FRACTION * run["steps"] if arm in SELECTING else run["steps"]
    watched = [e["watched"]["shuffled"] for e in run["evaluations"] if e["step"] <= until]
    return sum(watched) / len(watched) if watched else float("nan")


def accuracy(run: dict[str, Any]) -> float:
    """The zero-shot accuracy that a run ended with."""
    return float(run["evaluations"][-1]["metrics"]["zero_shot_top1"])


def first_step(run: dict[str, Any], target: float) -> int | None:
    """The first evaluation at which a run's zero-shot accuracy was at least ``target``."""
    steps = (e["step"] for e in run["evaluations"] if e["metrics"]["zero_shot_top1"] >= target)
    return next(steps, None)
