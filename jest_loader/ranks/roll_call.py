"""Which ranks are there: at the start of a pass, and after a collective failed.

The backends' own errors name none. The group's store is no part of the backend, and still there
when connections are broken.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

WAIT_S = 5.0
PATIENCE_S = 30.0  # Until a rank that waits for others to begin says so.
_POLL_S = 0.05
_MARKS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "processgroup")
_LOG = logging.getLogger(__name__)


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


def begin_pass(group: dist.ProcessGroup | None) -> None:
    """Tell the others that this rank begins a pass; one rank logs who does not in a while.

    It ends without them: the collectives that follow wait as long as the process group allows.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    with suppress(Exception):  # Each kind of store raises errors of its own; some groups have none.
        store, key = _get_default_store(), _key(group, "passes")
        number = store.add(f"{key}/{rank}", 1)
        begun_by_all = f"{key}/{number}/begun by all"
        if store.add(f"{key}/{number}/begun", 1) == size:
            store.set(begun_by_all, "yes")
        longest: timedelta = store.timeout  # type: ignore[attr-defined] # Of the process group.
        patience_s = min(PATIENCE_S, longest.total_seconds() / 2)
        started = time.monotonic()
        while not store.check([begun_by_all]):
            waited_s = time.monotonic() - started
            if waited_s > patience_s:
                _log_who_is_late(group)
                return
            time.sleep(waited_s / 8)


def _log_who_is_late(group: dist.ProcessGroup | None) -> None:
    rank, size, late = dist.get_rank(group), dist.get_world_size(group), _not_begun(group)
    if late and rank == min(set(range(size)) - set(late)):
        _LOG.warning(
            "rank %d of %d waits for rank %s to begin a pass over a JestDataset; iterate the "
            "dataset on each rank",
            rank,
            size,
            _listed(late),
        )


def rank_error(group: dist.ProcessGroup | None, error: RuntimeError) -> RankError:
    """The error to raise where ``error`` shows that a rank was lost."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if not_begun := _not_begun(group):
        return RankError(
            f"all ranks must begin a pass over a JestDataset together, but rank {rank} of {size} "
            f"waited in vain for rank {_listed(not_begun)}; iterate the dataset on each rank, or "
            f"see the log of one that has died or stalled: {error}"
        )
    missing = _missing(group)
    who = "another" if not missing else f"rank {_listed(missing)}"
    return RankError(
        "all ranks must answer within the timeout of their process group, but rank "
        f"{rank} of {size} waited in vain; {who} has died or stalled, see its log: {error}"
    )


def _not_begun(group: dist.ProcessGroup | None) -> list[int]:
    """The ranks that have begun fewer passes than this one; none if the store is gone."""
    with suppress(Exception):
        store, key = _get_default_store(), _key(group, "passes")
        ranks = range(dist.get_world_size(group))
        begun = [store.add(f"{key}/{rank}", 0) for rank in ranks]
        return [rank for rank in ranks if begun[rank] < begun[dist.get_rank(group)]]
    return []


def _missing(group: dist.ProcessGroup | None) -> list[int]:
    """The ranks that do not write into the group's store; none if the store is gone too."""
    own, left = dist.get_rank(group), set(range(dist.get_world_size(group)))
    key = _key(group, "answers")
    ever_read = False
    with suppress(Exception):
        store = _get_default_store()
        store.set(f"{key}/{own}", "here")
        deadline = time.monotonic() + WAIT_S
        while left and time.monotonic() < deadline:
            left -= {rank for rank in left if store.check([f"{key}/{rank}"])}
            ever_read = True
            time.sleep(_POLL_S)
    return sorted(left) if ever_read else []


def _key(group: dist.ProcessGroup | None, kind: str) -> str:
    return f"jest_loader/{'all' if group is None else group.group_name}/{kind}"


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
