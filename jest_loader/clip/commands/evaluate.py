"""``jest-loader evaluate``."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from jest_loader.clip.config.held_out import EvaluationConfig, held_out_sets
from jest_loader.clip.evaluation.evaluate import evaluate_all
from jest_loader.clip.evaluation.held_out import HeldOut, read_held_out
from jest_loader.clip.processes import choose_device
from jest_loader.clip.saving import checkpoint


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluationConfig):
    """Measure a checkpoint on held-out data: a table on stderr, one JSON line on stdout."""

    checkpoint: Path
    """A checkpoint of `jest-loader train`."""

    ema: bool = False
    """Take the average of weights that training with optimizer.ema_decay keeps beside the last."""

    data: Path | None = None
    """Folder of MDS shards or a Zarr group, as `jest-loader pack` writes them; None evaluates on
    the sets alone.
    """

    image_column: str = "image"
    """Column of images."""

    caption_column: str = "caption"
    """Column of captions."""

    device: str = "auto"
    """A torch device; auto takes a GPU where there is one."""


def evaluate_command(config: EvaluateConfig) -> str:
    """Measure, write the table to stderr as it grows; the figures in one line of JSON.

    Raises:
        ValueError: if there is no such checkpoint, or no data that it can be measured on.
    """
    sets = held_out_sets(config.data, config.image_column, config.caption_column, config)
    if not sets:
        raise ValueError("there must be something to evaluate on; give data or sets")
    saved = checkpoint.load(config.checkpoint)
    model = checkpoint.model_of(saved, ema=config.ema).to(choose_device(config.device))
    found: dict[str, float] = {}
    # All are read before the first is measured, so that a mistake in the last shows at once.
    held_out_by_name = {name: read_held_out(one, model.config) for name, one in sets.items()}
    for name, held_out in held_out_by_name.items():
        metrics = evaluate_all(model, {name: held_out})
        sys.stderr.write(_table(name or str(config.data), held_out, metrics))
        found |= metrics
    return json.dumps(
        {"checkpoint": str(config.checkpoint), "step": saved["step"], "metrics": found}
    )


def _table(title: str, held_out: HeldOut, metrics: dict[str, float]) -> str:
    classes, captions = held_out.classes, held_out.captions
    sizes = []
    if classes is not None:
        sizes.append(f"{len(classes.label):,} images of {len(classes.names):,} classes")
        sizes.append(f"{len(classes.templates)} templates" if classes.templates else "bare names")
    if captions is not None:
        num_images = int(captions.image.max()) + 1
        sizes.append(f"{len(captions.texts):,} captions of {num_images:,} images")
    rows = "".join(f"  {name:<42s}{100 * value:7.2f} %\n" for name, value in metrics.items())
    return f"{title}: {', '.join(sizes)}\n{rows}"
