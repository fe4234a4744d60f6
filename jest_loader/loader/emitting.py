"""The reference's embeddings of a sub-batch, for the training loop."""

from typing import Any

from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.protocols import Scores, WithReference
from jest_loader.scoring.scores import rows_of


def with_reference(sub_batch: Any, scores: Scores, index: Tensor) -> Any:
    """A sub-batch, a dict, with the reference's embeddings of its rows as column ``reference``.

    Args:
        sub_batch: Rows ``index`` (int64 [n]) of what was scored.
        scores: Of what was scored.
        index: Which rows.

    Raises:
        ValueError: if the scores have no embeddings of a reference, or the sub-batch no room.
    """
    reference = scores.reference if isinstance(scores, WithReference) else None
    if not isinstance(reference, Embeddings):
        raise ValueError(
            "emit_reference=True needs scores that hold the reference's embeddings, got "
            f"{type(scores).__name__} without; use Learnability or EasyReference"
        )
    if not isinstance(sub_batch, dict):
        raise ValueError(
            "emit_reference=True adds a column, so sub-batches must be dicts, got "
            f"{type(sub_batch).__name__}; return a dict from materialize"
        )
    if "reference" in sub_batch:
        raise ValueError(
            "emit_reference=True adds a column named 'reference', but the sub-batch has one "
            "already; rename it in materialize"
        )
    rows = rows_of(reference, index.to(reference.image.device))
    return {**sub_batch, "reference": rows}
