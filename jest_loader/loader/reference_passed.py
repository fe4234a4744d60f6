"""Whether the learner has passed the reference, as looked at now and then.

Past it, learnability is below zero for candidates as they come. So it is where many captions are
wrong or unlike what the reference was trained on, which is no harm.
"""

import logging

import torch

from jest_loader.loader.telemetry import Measured
from jest_loader.protocols import WithLearner, WithReference
from jest_loader.ranks.agreement import Agreement
from jest_loader.scoring.per_example import PerExample
from jest_loader.scoring.precision import without_autocast

STEPS_BETWEEN_LOOKS = 20
"""A look costs about a fifth of a selection."""

LONG = 100
"""Steps below zero that are no accident: five looks in a row."""

_LOG = logging.getLogger(__name__)


def compares(scorer: object) -> bool:
    """Whether its scores are a learner's loss less a reference's, so that their sign tells."""
    reference = scorer.reference if isinstance(scorer, WithReference) else None
    return reference is not None and isinstance(scorer, WithLearner | PerExample)


def is_passed(step: int, scorer: object, measured: Measured, agreement: Agreement) -> bool | None:
    """Whether most ranks' uniform draws score below zero; None where nobody looks.

    All ranks are told the same. It waits for the device, as choosing has done right before.

    Args:
        step: The sub-batch's number in the run.
        scorer: What scored it; None where nothing did.
        measured: Of the sub-batch.
        agreement: Of the ranks that select together.
    """
    # The last of twenty, so that no schedule's uniform_every makes each look's step uniform.
    if step % STEPS_BETWEEN_LOOKS != STEPS_BETWEEN_LOOKS - 1 or not compares(scorer):
        return None
    with agreement.step("comparing learner and reference", 2) as comparing:
        if measured.uniform is not None:
            with torch.no_grad(), without_autocast():
                comparing.numbers = (1, int(measured.uniform.mean().item() < 0))
    known, below = comparing.totals
    return None if known == 0 else 2 * below > known


def warn(*, ends: bool) -> None:
    """Say that it is passed for long, and what to do; ``ends`` if the schedule ends selection."""
    _LOG.warning(
        "the learner has passed the reference: for %d steps its loss on candidates drawn uniformly "
        "has been below the reference's, because the reference is weak, or many captions are wrong "
        "or unlike its own; %s",
        LONG,
        "the schedule ends selection here"
        if ends
        else "where it is weak, use a stronger one or end selection here, with "
        "until='reference_passed' of a Schedule",
    )
