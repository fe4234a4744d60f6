"""Conformance checks for what users plug in: run them in your own tests."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import Batch, columns, structure
from jest_loader.checks import whole
from jest_loader.loader.dataset import JestDataset
from jest_loader.protocols import Scores
from jest_loader.ranks.ranks import Collective
from jest_loader.ranks.roll_call import RankError

Result = TypeVar("Result")

_LONGEST_WAIT_S = 60.0  # of a simulated rank for the others


def assert_resumes_exactly(make: Callable[[], JestDataset], *, num_epochs: int = 2) -> None:
    """Check that a dataset resumed from any position delivers what the uninterrupted run delivers.

    Runs ``num_epochs`` without a stop, then once from the state after each sub-batch and each
    epoch, each time with a new dataset.

    Args:
        make: Returns a new dataset, the same each time. Scorers that learn while they score are not
            restored by the dataset's state and cannot be checked this way.
        num_epochs: Epochs to run.

    Raises:
        AssertionError: naming the position at which the runs part.
        ValueError: if ``num_epochs`` is below 1, or ``make`` returns the same dataset again.
    """
    whole("num_epochs", num_epochs, 1)
    uninterrupted = make()
    delivered, states = _record(uninterrupted, num_epochs)
    for position, state in states:
        where = f"resumed after {position} sub-batches"
        resumed = make()
        if resumed is uninterrupted:
            raise ValueError("make must return a new dataset each time, got the same one again")
        resumed.load_state_dict(copy.deepcopy(state))
        found = list(_run(resumed, num_epochs - state["epoch"]))
        expected = delivered[position:]
        assert len(found) == len(expected), (
            f"{where}, the run had {len(found)} more, not {len(expected)}"
        )
        for offset, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert batches_equal(one, other), (
                f"{where}, sub-batch {position + offset} is another one"
            )


def assert_scores_consistent(scores: Scores, *, chosen: Tensor) -> None:
    """Check that ``scores`` read like a conditional probability.

    Args:
        scores: Scores with nothing chosen.
        chosen: Int64 [n], n >= 2, distinct candidates to condition on, fewer than there are.

    Raises:
        AssertionError: naming the property that fails.
    """
    before = scores.logits.clone()
    assert torch.isfinite(before).all(), "logits must be finite while nothing is chosen"
    at_once = scores.given(chosen).logits
    assert torch.equal(scores.logits, before), (
        "given must not change the scores that it is called on"
    )
    assert at_once.shape == before.shape, "given must keep one logit per candidate"
    assert torch.isneginf(at_once[chosen]).all(), (
        "chosen candidates must have logits of minus infinity"
    )
    left = torch.ones_like(before, dtype=torch.bool)
    left[chosen] = False
    assert torch.isfinite(at_once[left]).all(), "candidates not chosen must keep finite logits"
    half = len(chosen) // 2
    in_turn = scores.given(chosen[:half]).given(chosen[half:]).logits
    torch.testing.assert_close(
        in_turn[left],
        at_once[left],
        msg=lambda text: f"given(a).given(b) must equal given(a and b): {text}",
    )


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


def batches_equal(first: Batch, second: Batch) -> bool:
    """Whether two batches have equal structure and equal rows."""
    if structure(first) != structure(second):
        return False
    found = dict(columns(second))
    return all(_columns_equal(column, found[path]) for path, column in columns(first))


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


def _columns_equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and first.dtype == object:
        return all(map(_columns_equal, first, second))
    if isinstance(first, Tensor | np.ndarray):
        if first.shape != second.shape:
            return False
        both_nan = (first != first) & (second != second)
        return bool(((first == second) | both_nan).all())
    return bool(first == second)


def _record(
    dataset: JestDataset, num_epochs: int
) -> tuple[list[Batch], list[tuple[int, dict[str, Any]]]]:
    """What a run delivers, and its state before, after each sub-batch and after each epoch."""
    delivered: list[Batch] = []
    states = [(0, copy.deepcopy(dataset.state_dict()))]
    for _ in range(num_epochs):
        for batch in dataset:
            delivered.append(copy.deepcopy(batch))
            states.append((len(delivered), copy.deepcopy(dataset.state_dict())))
        states.append((len(delivered), copy.deepcopy(dataset.state_dict())))
    return delivered, states


def _run(dataset: JestDataset, num_passes: int) -> Iterator[Batch]:
    for _ in range(num_passes):
        yield from dataset
