"""How a ``JestDataset`` runs: what has a default that suits most."""

import threading
from dataclasses import dataclass

import torch.distributed as dist

from jest_loader.checks import is_number, whole
from jest_loader.loader.schedule import Schedule
from jest_loader.ranks.ranks import Collective, Group


@dataclass(frozen=True)
class Options:
    """How a ``JestDataset`` runs.

    Args:
        seed: From 0 to 2^63 - 1; changes what is drawn.
        schedule: Changes filter ratio and gain over the run, and makes steps uniform.
        overlap: Whether a thread chooses the next sub-batch while the last one is trained on, on a
            CUDA stream of its own, with a copy of the weights from before that step. Saving a state
            discards the choice made ahead, so that a resumed run makes the same one.
        emit_reference: Whether each sub-batch, a dict, gets the reference's embeddings of its rows
            as an ``Embeddings`` named ``"reference"``, for losses that distil it (arXiv
            2411.18674); not in uniform steps.
        exclude_seen: Whether to leave out the candidates that the reference was trained on, which
            it has to know. They are scored with the others, and not drawn; a uniform step scores
            nothing and leaves none out.
        group: The ranks that select together: a process group of ``torch.distributed``. None for
            the default group where that is initialised, and for one rank where it is not.
        own_rows: Whether each rank's source has rows of its own in a way that cannot be told: then
            ranks whose loaders draw all of their datasets, or begin alike, are no error.
        batch_size: Rows of the source's batches, where it cannot say; none but the last may have
            fewer.
        num_examples: Rows of a pass over the source on this rank, where it cannot say and
            ``batch_size`` is known, for ``len`` of the dataset. It is an error if there are fewer.
        prefetch: Super-batches that a thread reads ahead while the last one is scored and trained
            on; 0 reads in the training loop's own thread.
        stall_timeout_s: With ``prefetch``, the longest to wait for a super-batch before an error,
            in seconds; None waits for ever.
        max_skipped_fraction: The largest share of a super-batch's candidates that may be skipped,
            but at least one candidate: rows for which ``prepare``, ``materialize`` or a model's
            ``embed`` or ``loss`` raised ``SkipRowsError``, and rows whose scores are not finite. 0
            allows none.

    Raises:
        ValueError: if a value is out of range or of another type.
    """

    seed: int = 0
    schedule: Schedule | None = None
    overlap: bool = False
    emit_reference: bool = False
    exclude_seen: bool = False
    group: Group | None = None
    own_rows: bool = False
    batch_size: int | None = None
    num_examples: int | None = None
    prefetch: int = 1
    stall_timeout_s: float | None = 1800.0
    max_skipped_fraction: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole("seed", self.seed, 0, 2**63 - 1))
        object.__setattr__(self, "prefetch", whole("prefetch", self.prefetch, 0))
        for name in ("batch_size", "num_examples"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, 1))
        for name in ("overlap", "emit_reference", "exclude_seen", "own_rows"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        group: object = self.group
        if group is not None and not isinstance(group, dist.ProcessGroup | Collective):
            raise ValueError(
                "group must be a process group of torch.distributed or None, got "
                f"{type(group).__name__}; use torch.distributed.new_group(ranks)"
            )
        schedule: object = self.schedule
        if schedule is not None and not isinstance(schedule, Schedule):
            raise ValueError(
                f"schedule must be a Schedule or None, got {schedule!r}; use "
                "Schedule(num_steps=...)"
            )
        timeout_s = self.stall_timeout_s
        if timeout_s is not None and not (
            is_number(timeout_s) and 0 < timeout_s < threading.TIMEOUT_MAX
        ):
            raise ValueError(
                f"stall_timeout_s must be a positive number of seconds, got {timeout_s!r}; use "
                "None to wait for ever"
            )
        fraction = self.max_skipped_fraction
        if not is_number(fraction) or not 0 <= fraction <= 1:
            raise ValueError(f"max_skipped_fraction must be from 0 to 1, got {fraction!r}")
