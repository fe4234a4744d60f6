"""The demo's contact sheets: what a search finds, and what selection takes and leaves."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jest_loader.adapters.mds import MdsSource
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.evaluation.evaluate import embed_captions
from jest_loader.clip.loading.columns import tokenize_and_decode
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.run import Run
from jest_loader.clip.saving.checkpoint import load_model
from jest_loader.demo.figures import new_figure, save
from jest_loader.demo.plan import FILTER_RATIO, NUM_CHUNKS
from jest_loader.embeddings import Embeddings
from jest_loader.scoring.models import FrozenReference
from jest_loader.scoring.scores import FactoredScores
from jest_loader.selecting.selectors import JointSelector

NUM_BEST = 4
_PER_ROW, _ROWS = 12, 4
_LETTERS_A_LINE = 13
_RIGHT, _WRONG = "tab:green", "tab:red"


class _Found(NamedTuple):
    """The held-out icons that a model finds most like each query.

    Args:
        images: Uint8 [queries, NUM_BEST, 1, size, size].
        right: Bool [queries, NUM_BEST]: whether the query is their name.
    """

    images: Tensor
    right: Tensor


def num_found(run: Run, queries: Sequence[str]) -> int:
    """For how many queries one of the first four icons has that name."""
    return int(_find(run, queries).right.any(dim=1).sum())


def draw_found(joint: Run, uniform: Run, queries: Sequence[str], path: Path) -> None:
    """For each query the first four icons of both runs, the right ones framed."""
    found = {"joint selection": _find(joint, queries), "uniform sampling": _find(uniform, queries)}
    figure = new_figure(8.2, 0.62 * len(queries) + 0.8)
    for part, (name, (images, right)) in zip(figure.subfigures(1, 2), found.items(), strict=True):
        part.suptitle(f"{name}: {right.any(dim=1).sum()} of {len(queries)} right")
        grid = part.subplots(len(queries), NUM_BEST, squeeze=False)
        for row, query in enumerate(queries):
            grid[row][0].set_ylabel(query, rotation=0, ha="right", va="center")
            for axes, image, is_right in zip(grid[row], images[row], right[row], strict=True):
                _draw(axes, image[0].numpy(), _RIGHT if is_right else None)
    save(figure, path)


def draw_chosen(learner: Path, reference: Run, config: TrainConfig, path: Path) -> None:
    """Of one super-batch what is taken first, and what has the lowest scores.

    Args:
        learner: A checkpoint of the joint arm.
        reference: The trained reference.
        config: The joint arm's.
        path: The picture.
    """
    batch, taken, left = _select(load_model(learner), reference, config)
    wrong = np.asarray(batch["shuffled"]).astype(bool)
    figure = new_figure(_PER_ROW * 0.95, 2 * (_ROWS * 1.05 + 0.5))
    parts = figure.subfigures(2, 1)
    for part, verb, rows in zip(parts, ("Taken", "Left out"), (taken, left), strict=True):
        part.suptitle(
            f"{verb}: {len(rows):,} of {len(wrong):,} candidates, {wrong[rows].mean():.0%} with a "
            "wrong caption (red)"
        )
        for axes, row in zip(part.subplots(_ROWS, _PER_ROW).flat, rows, strict=False):
            _draw(axes, np.asarray(batch["image"][row]), None)
            colour = _WRONG if wrong[row] else "black"
            axes.set_xlabel(_in_lines(batch["caption"][row]), fontsize=6, color=colour)
    save(figure, path)


@torch.no_grad()
def _find(run: Run, queries: Sequence[str]) -> _Found:
    held_out = run.held_out[""]
    assert held_out.classes is not None, "the demo's held-out icons have names"
    images, names = torch.cat(list(held_out.images)), held_out.classes.names
    run.model.eval()
    text = embed_captions(run.model, queries)
    blocks = torch.split(images.to(run.device), 1024)
    image = torch.cat([run.model.embed_image(block) for block in blocks])
    best = (text @ image.T).topk(NUM_BEST).indices.cpu()
    asked = torch.tensor([names.index(query) if query in names else -1 for query in queries])
    return _Found(images[best], held_out.classes.label[best] == asked[:, None])


def _select(
    learner: ClipModel, reference: Run, config: TrainConfig
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """A super-batch, the rows taken in the order drawn, and the others, the lowest score first."""
    size = config.data.batch_size
    candidates = round(size / (1 - FILTER_RATIO))
    source = MdsSource(config.data.train, batch_size=candidates, shuffle=True, seed=config.seed)
    batch = next(iter(source))
    inputs = tokenize_and_decode(config.data, learner.config)(batch)

    def as_scored(model: Any, inputs: dict[str, Any]) -> Embeddings:
        found: Embeddings = model.embed(inputs, image_size=config.selection.score_image_size)
        return found

    of_learner = FrozenReference(learner.to(reference.device), as_scored).embed(inputs)
    of_reference = FrozenReference(reference.model).embed(inputs)
    scores = FactoredScores(of_learner, of_reference, config.loss)
    taken = JointSelector(NUM_CHUNKS).select(scores, size, key=config.seed).cpu()
    is_left = torch.ones(len(scores.logits), dtype=torch.bool).index_fill(0, taken, value=False)
    order = scores.logits.cpu().argsort()
    return batch, taken, order[is_left[order]]


def _draw(axes: Any, ink: Any, frame: str | None) -> None:
    axes.imshow(255 - ink, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2)


def _in_lines(caption: str) -> str:
    """The caption in two short lines."""
    lines = wrap(caption, _LETTERS_A_LINE)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
