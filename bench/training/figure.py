"""The figure of the icons: accuracy over steps and over flops, with bands from seed to seed."""

from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import pyplot

_SETTING = "noise-20-batch-128"
_DRAWN = {
    "uniform": "uniform",
    "independent": "independent, learnability",
    "joint": "joint, learnability (JEST)",
    "flexi": "Flexi-JEST",
    "easy": "joint, easy reference",
}


def draw(curves: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """A line is the mean over seeds, a band the least to the most.

    Args:
        curves: What ``summary`` makes of each run, by setting and arm.
        path: Where the picture goes.
    """
    figure, panels = pyplot().subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for colour, (arm, label) in enumerate(_DRAWN.items()):
        runs = curves.get(_SETTING, {}).get(arm, [])
        if not runs:
            continue
        steps = np.array(runs[0]["step"])
        flops = steps / runs[0]["steps"] * np.mean([run["flops"] for run in runs])
        accuracy = 100 * np.array([run["top1"] for run in runs])
        for panel, along in zip(panels, (steps, flops), strict=True):
            panel.plot(along, accuracy.mean(0), color=f"C{colour}", label=label)
            low, high = accuracy.min(0), accuracy.max(0)
            panel.fill_between(along, low, high, color=f"C{colour}", alpha=0.2, linewidth=0)
    panels[0].set(xlabel="steps of 128", ylabel="zero-shot accuracy, %")
    panels[1].set(xlabel="flops by the cost model, without the reference's")
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
