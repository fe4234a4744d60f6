"""Fits a reference's scale and bias to a run's sub-batches where its batch size is not known."""

import logging
import math
from collections.abc import Iterator
from typing import TypeVar

import torch

from jest_loader.batch import Batch
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.columns import columns_of, open_shards, tokenize_and_decode
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.ranks.ranks import ranks_of
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.sized import SizedEmbedder
from jest_loader.skipped import use

_LOG = logging.getLogger(__name__)
_NUM_SAMPLED = 1024

Reference = TypeVar("Reference", bound=SizedEmbedder)


def fitted(
    reference: Reference, config: TrainConfig, saved: Calibration | None, *, decodes: bool
) -> Reference:
    """The reference as it scores for a run's sub-batches; the log says what was fitted.

    All ranks take what the first finds: rounding may differ from machine to machine.

    Args:
        reference: What scores, as it was trained.
        config: The run.
        saved: What a run that goes on had found; None if it had found nothing, or is new.
        decodes: Whether the reference looks at pictures and texts, not at sample ids alone.
    """
    if config.loss != "sigmoid":
        return reference
    if saved is not None:
        return reference.with_calibration(saved)
    if reference.trained_batch_size is not None:
        return reference
    size = config.data.batch_size
    reason, own = "", torch.full((2,), torch.nan, dtype=torch.float64)
    try:
        sample = _sample(config, decodes=decodes)
        fit = reference.calibrated(sample, size, max_pairs=_NUM_SAMPLED).calibration
        assert fit is not None, "it is calibrated"
        own = torch.tensor(fit[:2], dtype=torch.float64)
    except ValueError as error:
        reason = f" ({error})"
    scale, bias = ranks_of(None).all_gather(own)[0].tolist()
    if math.isnan(scale):
        _say(f"it could not be fitted to sub-batches of {size}{reason}")
        return reference
    _say(
        f"its scale and bias were fitted to sub-batches of {size}, and are {scale:.3f} and "
        f"{bias:.3f}"
    )
    return reference.with_calibration(Calibration(scale, bias, size))


def _say(what: str) -> None:
    if ranks_of(None).rank == 0:
        _LOG.warning(
            "it is not known what batch size the reference was trained at: %s; set "
            "selection.reference_batch_size where you know it",
            what,
        )


def _sample(config: TrainConfig, *, decodes: bool) -> Iterator[Batch]:
    """The first batches that the run trains on, what cannot be decoded left out."""
    data = config.data
    prepare = tokenize_and_decode(data, trained_architecture(config)) if decodes else None
    for batch in open_shards(
        data.train,
        columns_of(data),
        batch_size=data.batch_size,
        shuffle=True,
        window_rows=data.window_rows,
        seed=config.seed,
        drop_last=False,
    ):
        if prepare is None:
            yield {"sample_id": batch["sample_id"]}
        elif (usable := use(prepare, batch).output) is not None:
            yield usable
