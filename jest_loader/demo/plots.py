"""The demo's learning curves."""

from pathlib import Path
from typing import Any

from jest_loader.demo.data import DemoData
from jest_loader.demo.figures import new_figure, save
from jest_loader.demo.plan import Plan

_COLOURS = {
    "uniform": "tab:gray",
    "curated": "tab:olive",
    "independent": "tab:blue",
    "joint": "tab:red",
}


def check_installed() -> None:
    """Raise ``ModuleNotFoundError`` now rather than when all is trained."""
    new_figure(1, 1)


def draw_curves(results: dict[str, Any], planned: Plan, data: DemoData, path: Path) -> None:
    """Held-out accuracy of each arm over steps and over floating-point operations."""
    figure = new_figure(10, 4)
    by_steps, by_flops = figure.subplots(1, 2, sharey=True)
    for arm, run in results["arms"].items():
        steps = [evaluation["step"] for evaluation in run["evaluations"]]
        accuracy = [100 * e["metrics"]["zero_shot_top1"] for e in run["evaluations"]]
        line = {"label": "curated only" if arm == "curated" else arm, "color": _COLOURS[arm]}
        by_steps.plot(steps, accuracy, **line)
        by_flops.plot([planned.flops(arm, step) / 1e12 for step in steps], accuracy, **line)
    for axes in (by_steps, by_flops):
        axes.axhline(100 / data.num_classes, color="black", ls=":", lw=1, label="chance")
        axes.set(ylim=(0, None), xlim=(0, None))
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.grid(alpha=0.3)
    by_steps.set(
        xlabel="training steps",
        ylabel=f"held-out icons named right, of {data.num_classes} names",
    )
    by_flops.set_xlabel("10¹² operations (cost model), the reference's counted")
    by_steps.legend(loc="upper left", fontsize="small")
    save(figure, path)
