"""Whether a training loop of others goes on exactly, and trains on each row once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from jest_loader.testing.equality import batches_equal
from jest_loader.testing.passes import check_each_once


@dataclass(frozen=True)
class Trained:
    """What a run of a training loop did.

    Args:
        rows: The ids of the rows trained on: by rank, then by step.
        states: What was saved, each as the steps that were done and whatever ``run`` takes to go on
            from there: the path of a checkpoint, say. Several may be of one step.
        weights: The weights at the end, tensors in any containers; None compares none.
    """

    rows: Sequence[Sequence[Sequence[int]]]
    states: Sequence[tuple[int, Any]] = ()
    weights: Any = None


def check_training(run: Callable[[Any], Trained], *, steps_per_epoch: int | None = None) -> Trained:
    """Check a training loop around a ``JestDataset``.

    - It does the same when run again, and from each state that it saved it goes on exactly: with
      the rows that were left, and to the same weights.
    - No step has a row on two ranks. With ``steps_per_epoch``, no epoch has a row twice, each has
      other sub-batches, and states of the epochs' ends are there to be tried.

    Args:
        run: ``run(state)`` trains from a state to the end, and with None from the start. What it
            makes is new each time.
        steps_per_epoch: Steps of an epoch, of at least two epochs; None does not ask for epochs.

    Returns:
        The run from the start, for checks of your own.

    Raises:
        AssertionError: saying where it parts from the first run, and what to do.
        ValueError: if it saved no states.
    """
    whole = run(None)
    if not whole.states:
        raise ValueError("run must save states to go on from, got none; save one at each step")
    num_steps = [len(steps) for steps in whole.rows]
    assert len(set(num_steps)) == 1, f"all ranks must do the same number of steps, got {num_steps}"
    for step in range(num_steps[0]):
        check_each_once(
            ((f"rank {rank}", steps[step]) for rank, steps in enumerate(whole.rows)), f"step {step}"
        )
    if steps_per_epoch is not None:
        _check_epochs(whole, steps_per_epoch)
    for done, state in ((0, None), *whole.states):
        _check_resumed(whole, run(state), done, "run again" if state is None else "resumed")
    return whole


def _check_epochs(whole: Trained, size: int) -> None:
    num_steps = len(whole.rows[0])
    epochs = []
    for start in range(0, num_steps, size):
        steps = range(start, min(start + size, num_steps))
        trained = [list(chain(*(rows[step] for rows in whole.rows))) for step in steps]
        where = f"epoch {start // size}"
        named = zip((f"step {step}" for step in steps), trained, strict=True)
        check_each_once(named, where)
        assert trained not in epochs, (
            f"{where} has the sub-batches of another; tell the dataset its epoch with set_epoch"
        )
        epochs.append(trained)
        end = start + size
        assert end >= num_steps or any(done == end for done, _ in whole.states), (
            f"no state was saved after step {end}, at an epoch's end; save one, since loops end "
            "epochs in ways of their own"
        )


def _check_resumed(whole: Trained, found: Trained, done: int, how: str) -> None:
    where = f"{how} after {done} steps"
    for rank, (steps, expected) in enumerate(zip(found.rows, whole.rows, strict=True)):
        left = expected[done:]
        assert len(steps) == len(left), (
            f"{where}, rank {rank} did {len(steps)} more, not {len(left)}; restore the loop's "
            "position with the dataset's"
        )
        for step, (one, other) in enumerate(zip(steps, left, strict=True), start=done):
            assert list(one) == list(other), (
                f"{where}, rank {rank} trained on other rows in step {step}; save and load "
                "dataset.state_dict(), and call set_epoch only as the loop goes on to an epoch"
            )
    assert batches_equal(found.weights, whole.weights), (
        f"{where}, the weights at the end are others; save model, optimizer, scheduler and "
        "random state too"
    )
