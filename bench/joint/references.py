"""References of several strengths: trained on right pairs that no arm selects from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.joint.dictionary import Dictionary
from bench.joint.evaluation import evaluate
from bench.joint.learner import TwoTowers
from bench.joint.sources import Embedded, Split, shuffled
from bench.joint.training import Trainer
from jest_loader import ColumnReference
from jest_loader.protocols import Loss

_BATCH_SIZE, _STEPS = 512, 1500
_STRENGTHS = {"weak": (1 / 32, 64), "fair": (1 / 8, 64), "good": (1.0, 64), "strong": (1.0, 256)}
"""The share of the reserve that each is trained on, and its width."""
REFERENCES = (*_STRENGTHS, "seen")
"""``"seen"`` is trained on half of the pool, with right captions, and as wide as ``"strong"``."""


@dataclass(frozen=True)
class Reference:
    """A trained reference.

    Args:
        column: Reads its embeddings from the batch.
        embedded: Its embeddings of all rows.
        accuracy: What it reaches on the test.
        rows: Int64, those it was trained on.
    """

    column: ColumnReference
    embedded: Embedded
    accuracy: dict[str, float]
    rows: Tensor


def reference_of(
    name: str, loss: Loss, dictionary: Dictionary, split: Split, folder: Path
) -> Reference:
    """The reference of that name, trained where the folder has none yet."""
    if name == "seen":
        rows, width = shuffled(split.pool, seed=1)[: len(split.pool) // 2], _STRENGTHS["strong"][1]
    else:
        share, width = _STRENGTHS[name]
        rows = shuffled(split.reserve, seed=1)[: round(share * len(split.reserve))]
    model = TwoTowers(loss, _BATCH_SIZE, seed=1234, width=width).to(dictionary.device)
    path = folder / f"reference-{name}-{loss}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, dictionary.device, weights_only=True))
    else:
        _train(model, loss, dictionary, rows)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    with torch.no_grad():
        found = model.embed({"german": dictionary.german, "english": dictionary.english})
    column = ColumnReference(
        logit_scale=model.log_scale.exp().item(),
        logit_bias=None if model.bias is None else model.bias.item(),
        device=dictionary.device,
        trained_batch_size=_BATCH_SIZE,
    )
    embedded = Embedded(found.image, found.text)
    return Reference(column, embedded, evaluate(model, dictionary, split.test), rows)


def _train(model: TwoTowers, loss: Loss, dictionary: Dictionary, rows: Tensor) -> None:
    """Fewer steps on fewer rows: five epochs at most."""
    steps = min(_STEPS, max(200, 5 * len(rows) // _BATCH_SIZE))
    trainer = Trainer(model, loss, steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        drawn = rows[torch.randint(len(rows), (_BATCH_SIZE,), generator=generator)]
        batch = {"german": dictionary.german[drawn], "english": dictionary.english[drawn]}
        trainer.step(batch, step)
