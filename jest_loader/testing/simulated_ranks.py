"""Several ranks in the threads of one process."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from jest_loader.ranks.ranks import Collective
from jest_loader.ranks.roll_call import RankError

Result = TypeVar("Result")

_LONGEST_WAIT_S = 60.0  # of a simulated rank for the others


def simulate_ranks(num_ranks: int, run: Callable[[Collective], Result]) -> list[Result]:
    """Run what several processes would, in as many threads of this one.

    Args:
        num_ranks: How many.
        run: Called with what to pass as ``Options(group=...)`` or to ``ranks_of``; what it returns
            is returned, rank by rank.

    Raises:
        Exception: the first that a rank raised; the others end with ``RankError``.
    """
    table = _Table(num_ranks)

    def run_one(rank: int) -> Result:
        try:
            return run(_Seat(rank, num_ranks, table))
        except BaseException:
            table.barrier.abort()  # The others would wait for ever.
            raise

    with ThreadPoolExecutor(num_ranks) as pool:
        calls = [pool.submit(run_one, rank) for rank in range(num_ranks)]
        errors = [error for call in calls if (error := call.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, RankError)):
        raise error
    return [call.result() for call in calls]


class _Table:
    """Where threads lay down what they have for each other."""

    def __init__(self, size: int) -> None:
        self.laid: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=_LONGEST_WAIT_S)


class _Seat:
    """One of the threads at a table: a ``Collective``."""

    def __init__(self, rank: int, size: int, table: _Table) -> None:
        self.rank, self.size, self._table = rank, size, table

    def all_gather(self, value: Tensor) -> Tensor:
        return torch.stack(self._all(value))

    def all_to_all(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        return [laid[self.rank] for laid in self._all(parts)]

    def _all(self, value: Any) -> list[Any]:
        self._table.laid[self.rank] = value
        try:
            self._table.barrier.wait()
            found = list(self._table.laid)
            self._table.barrier.wait()  # before anyone lays down the next
        except threading.BrokenBarrierError as error:
            raise RankError("another rank failed or ended early, see its error") from error
        return found
