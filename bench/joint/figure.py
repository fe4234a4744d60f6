"""The map, and the curves of the default setting."""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.harness import pyplot
from bench.joint.arms import GAINS, Setting
from bench.joint.compare import Runs, described, difference

_CURVES = {
    "uniform": ("uniform", "0.4"),
    "independent-1": ("independent", "C0"),
    "joint-1": ("joint", "C3"),
}


def draw(by_setting: dict[Setting, Runs], path: Path) -> None:
    """Joint less independent selection by setting and gain; accuracy over steps."""
    figure, (left, right) = pyplot().subplots(
        1, 2, figsize=(10, 4.6), width_ratios=(1.25, 1), layout="constrained"
    )
    _draw_map(left, by_setting)
    _draw_curves(right, next(iter(by_setting.values())))
    figure.savefig(path, dpi=110)


def _draw_map(panel: Any, by_setting: dict[Setting, Runs]) -> None:
    """A row for each setting in which the two were compared, a column for each gain."""
    rows = {
        described(setting): [
            difference(runs, f"joint-{gain}", f"independent-{gain}", "r1") for gain in GAINS
        ]
        for setting, runs in by_setting.items()
    }
    rows = {name: cells for name, cells in rows.items() if any(cells)}
    values = [[math.nan if cell is None else cell.mean for cell in row] for row in rows.values()]
    image = panel.imshow(values, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    for row, cells in enumerate(rows.values()):
        for column, cell in enumerate(cells):
            if cell is not None:
                error = "" if cell.error is None else f"\n± {cell.error:.1f}"
                text = f"{cell.mean:+.1f}{error}"
                panel.text(column, row, text, ha="center", va="center", size=8)
    panel.set_yticks(range(len(rows)), rows, size=8)
    panel.set_xticks(range(len(GAINS)), [f"gain {gain}" for gain in GAINS])
    panel.set_title("R@1 of joint less independent selection, points", size=10)
    panel.figure.colorbar(image, ax=panel, shrink=0.8)


def _draw_curves(panel: Any, runs: Runs) -> None:
    """Mean over seeds, and a band of one standard deviation."""
    for arm, (label, color) in _CURVES.items():
        curves = [record["curve"] for record in runs.get(arm, {}).values()]
        if not curves:
            continue
        steps = [point["step"] for point in curves[0]]
        points = [[100 * curve[at]["r1"] for curve in curves] for at in range(len(steps))]
        middle = [mean(values) for values in points]
        spread = [stdev(values) if len(values) > 1 else 0.0 for values in points]
        panel.plot(steps, middle, color=color, label=label)
        low, high = zip(*((m - s, m + s) for m, s in zip(middle, spread, strict=True)), strict=True)
        panel.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    panel.set(xlabel="steps", ylabel="R@1, %")
    panel.set_title("Batches of 512, a strong reference, gain 1", size=10)
    panel.legend(loc="lower right")
