"""Whether a dataset goes on from any position as if it had not stopped."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.loader.dataset import JestDataset
from jest_loader.testing.equality import batches_equal


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
