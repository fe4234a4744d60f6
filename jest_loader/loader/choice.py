"""A sub-batch on its way from the super-batch to the training loop."""

from typing import Any, NamedTuple

from jest_loader.batch import Batch
from jest_loader.loader.super_batch import SuperBatch
from jest_loader.loader.telemetry import Measured


class Choice(NamedTuple):
    """A sub-batch, and what it was chosen from.

    Args:
        super_batch: The candidates.
        sub_batch: As it is handed out.
        rows: The same rows as they were scored.
        measured: What it is worth and took.
    """

    super_batch: SuperBatch
    sub_batch: Any
    rows: Batch
    measured: Measured
