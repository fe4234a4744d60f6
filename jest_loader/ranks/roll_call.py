"""Which ranks still answer after a collective failed: the backends' own errors name none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

WAIT_S = 5.0
_POLL_S = 0.05
_MARKS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "processgroup")


class RankError(RuntimeError):
    """Another rank failed, died or did not answer in time, so this one cannot go on either."""


@contextmanager
def naming_ranks(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """A block that talks to other ranks, as a model in DDP does.

    Raises:
        RankError: instead of the backend's error if they cannot be reached; it names those that do
            not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RankError) or not is_of_a_backend(error):
            raise
        raise rank_error(group, error) from error


def is_of_a_backend(error: RuntimeError) -> bool:
    """Whether a backend raised the error because it lost another rank."""
    text = str(error).lower()  # Gloo's errors are plain RuntimeErrors.
    return isinstance(error, dist.DistError) or any(mark in text for mark in _MARKS)


def rank_error(group: dist.ProcessGroup | None, error: RuntimeError) -> RankError:
    """The error to raise where ``error`` shows that a rank was lost."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    missing = _missing(group)
    who = "another" if not missing else f"rank {', '.join(map(str, missing))}"
    return RankError(
        "all ranks must answer within the timeout of their process group, but rank "
        f"{rank} of {size} waited in vain; {who} has died or stalled, see its log: {error}"
    )


def _missing(group: dist.ProcessGroup | None) -> list[int]:
    """The ranks that do not write into the group's store; none if the store is gone too.

    The store is no part of the backend, and still there when connections are broken.
    """
    own, left = dist.get_rank(group), set(range(dist.get_world_size(group)))
    key = f"jest_loader/{'all' if group is None else group.group_name}/answers"
    ever_read = False
    with suppress(Exception):  # Each kind of store raises errors of its own.
        store = _get_default_store()
        store.set(f"{key}/{own}", "here")
        deadline = time.monotonic() + WAIT_S
        while left and time.monotonic() < deadline:
            left -= {rank for rank in left if store.check([f"{key}/{rank}"])}
            ever_read = True
            time.sleep(_POLL_S)
    return sorted(left) if ever_read else []
