"""The demo's two pictures: learning curves, and what a search finds among icons never seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jest_loader.clip.evaluation.evaluate import embed_captions
from jest_loader.clip.run import Run
from jest_loader.files import replacing

_COLOURS = {
    "uniform": "tab:gray",
    "independent": "tab:blue",
    "joint": "tab:red",
    "curated only": "tab:olive",
}


def check_installed() -> None:
    """Raise ``ModuleNotFoundError`` now rather than when all is trained."""
    _new_figure(1, 1)


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """Held-out accuracy of each arm over steps and over floating-point operations."""
    figure = _new_figure(10, 4)
    for axes, name, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("step", "flops"),
        ("training steps", "floating-point operations (cost model)"),
        strict=True,
    ):
        for arm, run in {**results["arms"], "curated only": results["reference"]}.items():
            steps = [evaluation["step"] for evaluation in run["evaluations"]]
            accuracy = [e["metrics"]["zero_shot_top1"] for e in run["evaluations"]]
            flops_per_step = run["flops"] / run["steps"]
            along = steps if name == "step" else [step * flops_per_step for step in steps]
            axes.plot(along, accuracy, label=arm, color=_COLOURS[arm])
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out zero-shot accuracy")
    figure.axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


@torch.no_grad()
def draw_icons(run: Run, queries: Sequence[str], path: Path, *, num_best: int = 8) -> None:
    """For each query, the icons of the held-out style that the model finds most like it."""
    images = torch.cat(list(run.held_out[""].images))
    run.model.eval()
    text = embed_captions(run.model, queries)
    image = torch.cat(
        [run.model.embed_image(block.to(run.device)) for block in torch.split(images, 1024)]
    )
    best = (text @ image.T).topk(num_best).indices.cpu()
    figure = _new_figure(num_best * 0.55 + 2.2, len(queries) * 0.55)
    grid = figure.subplots(len(queries), num_best, squeeze=False)
    for query, row, found in zip(queries, grid, best, strict=True):
        row[0].text(-0.4, 0.5, query, ha="right", va="center", transform=row[0].transAxes)
        for axes, index in zip(row, found, strict=True):
            axes.imshow(255 - images[index, 0].numpy(), cmap="gray", vmin=0, vmax=255)
            axes.axis("off")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _new_figure(width: float, height: float) -> Any:
    """A figure that needs no display, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
