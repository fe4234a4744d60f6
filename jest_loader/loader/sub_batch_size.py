"""Scorers are told how many examples are each other's negatives in a sub-batch."""

import logging

from jest_loader.protocols import Scorer, WithLoss, WithReference
from jest_loader.ranks.ranks import Group, ranks_of
from jest_loader.scoring.sized import SizeAdapting, TrainedAtSize
from jest_loader.scoring.turns import TakesTurns

_LOG = logging.getLogger(__name__)


def for_sub_batches(scorer: Scorer | None, size: int) -> Scorer | None:
    """The scorer for sub-batches of ``size`` over all ranks."""
    if not isinstance(scorer, SizeAdapting):
        return scorer
    adapted: Scorer = scorer.at_sub_batch_size(size)
    return adapted


def warn_if_not_known(scorer: object, group: Group | None) -> None:
    """Say, on one rank, that a reference's bias is used as it is since its size is not known."""
    if not (isinstance(scorer, WithReference) and isinstance(scorer, WithLoss)):
        return
    reference: object = scorer.reference
    if scorer.loss != "sigmoid" or not isinstance(reference, TrainedAtSize):
        return
    if reference.trained_batch_size is None and ranks_of(group).rank == 0:
        _LOG.warning(
            "it is not known what batch size the reference was trained at, so its logit bias is "
            "used as it is, which is right only where that was the size of the sub-batches over "
            "all ranks; give %s trained_batch_size, or scale and bias as calibrate finds them",
            _named(reference),
        )


def _named(reference: object) -> str:
    """What takes the batch size."""
    name = type(reference).__name__
    return f"each reference of {name}" if isinstance(reference, TakesTurns) else name
