"""Whether a source delivers each row once an epoch, goes on from any state, and ends cleanly."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from jest_loader.loader.data_loader import set_epoch
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.promises import Declared
from jest_loader.protocols import CountedSource, EpochSource, Source
from jest_loader.selecting.selectors import UniformSelector
from jest_loader.testing.leftovers import check_nothing_left
from jest_loader.testing.passes import (
    NUM_EPOCHS,
    Rows,
    Subject,
    check_each_once,
    check_equal,
    flat,
)
from jest_loader.testing.resuming import assert_resumes_exactly
from jest_loader.testing.source_ranks import check_ranks
from jest_loader.testing.source_states import check_states


def check_source(
    make: Callable[[], Source],
    *,
    id_column: str | None = None,
    num_rows: int | None = None,
    shuffles: bool = True,
    resumes: bool = True,
    shards: bool = True,
) -> None:
    """Check a source, in this order.

    - Batches have one size and the same columns, and stay as they are while others are drawn.
    - Each epoch has each row once, and is as long as ``len``, ``num_examples`` and ``batch_size``
      say, where the source has them.
    - Rows come in the same order from each new source and in another one in each epoch, and
      ``set_epoch`` leads to an epoch whatever was read before.
    - A pass that is left early leaves no thread and no open file, and another can follow.
    - From the state after each batch, and after each epoch, a new source goes on exactly.
    - On 1, 2 and 4 ranks each row is on one of them, and all have the same state.
    - A ``JestDataset`` reads it in a thread of its own, and resumes from each of its steps.

    What a source is not meant to do is said in the call, so that nothing is left out unseen.

    Args:
        make: Returns a new source, the same each time, of at least 4 batches. A state is tried
            after every batch, so ten or twenty are enough.
        id_column: The column that tells rows apart; None compares all that they hold.
        num_rows: Rows of the data; None takes ``num_examples``, if the source has it.
        shuffles: Whether each epoch has an order of its own.
        resumes: Whether it has ``state_dict`` and ``load_state_dict``.
        shards: Whether it has ``shard``.

    Raises:
        AssertionError: saying where it fails, and what to do.
        ValueError: if the source is too small, or its batches lack ``id_column``.
    """
    subject = Subject(make, id_column)
    epochs = subject.epochs(make())
    _check_rows(make(), epochs, num_rows)
    _check_order(subject, epochs, shuffles=shuffles)
    check_nothing_left(lambda: _leave_early(make()), "a pass that was left after a batch")
    _check_after_early_end(subject, epochs)
    if resumes:
        check_states(subject, epochs)
    if shards:
        check_ranks(subject, epochs, resumes=resumes)
    _check_dataset(make, len(epochs[0][0]), resumes=resumes)


def _check_rows(source: Any, epochs: list[Rows], num_rows: int | None) -> None:
    """Sizes, lengths, and each row once."""
    size = Declared(source).batch_size or len(epochs[0][0])
    if num_rows is None and isinstance(source, CountedSource):
        num_rows = source.num_examples
    for epoch, batches in enumerate(epochs):
        where = f"epoch {epoch}"
        _check_sizes(batches, size, where)
        with suppress(TypeError):  # It has no length.
            assert len(source) == len(batches), (
                f"len must be the batches of an epoch, got {len(source)} and {len(batches)} in "
                f"{where}"
            )
        check_each_once(((f"batch {n}", rows) for n, rows in enumerate(batches)), where)
        delivered = len(flat(batches))
        if num_rows is None:
            continue
        assert delivered in (num_rows, num_rows // size * size), (
            f"{where} must have all {num_rows} rows, or those of its full batches of {size}, got "
            f"{delivered}; deliver the last batch too"
        )
        lost = set(flat(epochs[0])) - set(flat(batches))
        assert delivered < num_rows or not lost, (
            f"{where} must have the rows of epoch 0, but lacks {len(lost)} of them; deliver each "
            "row once an epoch"
        )


def _check_sizes(batches: Rows, size: int, where: str) -> None:
    for number, rows in enumerate(batches):
        is_last = number == len(batches) - 1
        assert len(rows) == size or (is_last and 0 < len(rows) < size), (
            f"batch {number} of {where} must have {size} rows, got {len(rows)}; only the last of "
            "an epoch may have fewer"
        )


def _check_order(subject: Subject, epochs: list[Rows], *, shuffles: bool) -> None:
    another = subject.make()
    for epoch, rows in enumerate(epochs):
        check_equal(
            subject.epoch(another, epoch), rows, f"in epoch {epoch} of another source",
            "let make return a new source each time, with the same seed",
        )  # fmt: skip
    direct, last = subject.make(), NUM_EPOCHS - 1
    if isinstance(direct, EpochSource):
        where = f"after set_epoch({last})"
        check_equal(
            subject.epoch(direct, last, where), epochs[last], where,
            "the order must be that of the epoch, whatever was read before",
        )  # fmt: skip
    assert not shuffles or epochs[0] != epochs[1], (
        "epochs 0 and 1 have the same order; draw another in each epoch, or pass shuffles=False"
    )


def _leave_early(source: Any) -> None:
    """Draw one batch, and let go of the source."""
    batches = iter(source)
    next(batches)
    for one in (batches, source):
        if close := getattr(one, "close", None):
            close()


def _check_after_early_end(subject: Subject, epochs: list[Rows]) -> None:
    source, where = subject.make(), "after a pass that was left early"
    set_epoch(source, 0)
    next(iter(source))
    found, remedy = subject.epoch(source, 1, where), "begin each pass anew in __iter__"
    if isinstance(source, EpochSource):
        check_equal(found, epochs[1], where, remedy)
    assert len(found) == len(epochs[1]), (
        f"{where}, there were {len(found)} batches, not {len(epochs[1])}; {remedy}"
    )


def _check_dataset(make: Callable[[], Source], size: int, *, resumes: bool) -> None:
    """Read and resume as a ``JestDataset`` does: in another thread, and ahead."""

    def dataset() -> JestDataset:
        return JestDataset(
            make(), None, UniformSelector(), super_batch_size=2 * size, sub_batch_size=size
        )

    if resumes:
        assert_resumes_exactly(dataset)
    else:
        for _ in dataset():
            pass
