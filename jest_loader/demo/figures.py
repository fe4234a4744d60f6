"""Figures that need no display."""

from pathlib import Path
from typing import Any

from jest_loader.files import replacing


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, in one piece."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)
