"""Whether a source goes on exactly from each of its states."""

import copy
from typing import Any, NamedTuple

from jest_loader.loader.data_loader import set_epoch
from jest_loader.protocols import Source, Stateful
from jest_loader.state_digest import with_digest
from jest_loader.testing.passes import NUM_EPOCHS, Rows, Subject, check_equal
from jest_loader.testing.rows import row_keys


class _Saved(NamedTuple):
    """A state, where it was taken, and its digest then."""

    epoch: int
    done: int
    is_over: bool
    state: dict[str, Any]
    digest: str

    @property
    def where(self) -> str:
        after = f"after {self.done} batches of epoch {self.epoch}"
        return f"{after}, at its end" if self.is_over else after


def check_states(subject: Subject, epochs: list[Rows]) -> None:
    """Check that a new source goes on from the state after each batch and each epoch.

    Raises:
        AssertionError: naming the state from which it does not.
    """
    for saved in _saved(subject.make()):
        epoch, start = (saved.epoch + 1, 0) if saved.is_over else (saved.epoch, saved.done)
        source = resumed(subject.make(), saved.state)
        where = f"resumed {saved.where}"
        check_equal(
            subject.epoch(source, epoch, where), epochs[epoch][start:], where,
            "state_dict must hold all on which the next batch depends, and load_state_dict put "
            "it back",
        )  # fmt: skip
        if epoch + 1 < NUM_EPOCHS:
            set_epoch(source, epoch + 1)
            following = [row_keys(batch, subject.id_column) for batch in _first(source)]
            check_equal(
                following, epochs[epoch + 1][:1], f"{where}, in the epoch after",
                "let a loaded state count once, and begin the next epoch after it",
            )  # fmt: skip


def resumed(source: Source, state: dict[str, Any]) -> Source:
    """The source with that state loaded."""
    stateful(source).load_state_dict(copy.deepcopy(state))
    return source


def stateful(source: Source) -> Stateful:
    """The source, which must be able to resume."""
    assert isinstance(source, Stateful), (
        f"a source that resumes must have state_dict and load_state_dict, and a "
        f"{type(source).__name__} does not; add them, or pass resumes=False"
    )
    return source


def _saved(source: Source) -> list[_Saved]:
    """The states of all epochs but the last."""
    found: list[_Saved] = []

    def save(epoch: int, done: int, *, is_over: bool = False) -> None:
        state = stateful(source).state_dict()
        found.append(_Saved(epoch, done, is_over, state, _digest(state)))

    save(0, 0)
    for epoch in range(NUM_EPOCHS - 1):
        set_epoch(source, epoch)
        done = 0
        for _ in source:
            done += 1
            save(epoch, done)
        save(epoch, done, is_over=True)
    for saved in found:
        assert _digest(saved.state) == saved.digest, (
            f"the state {saved.where} changed while the source went on; state_dict must return a "
            "copy"
        )
    return found


def _digest(state: dict[str, Any]) -> str:
    return str(with_digest(state)["digest"])


def _first(source: Source) -> list[Any]:
    """The first batch of a pass, if it has one."""
    return [batch for batch, _ in zip(source, range(1), strict=False)]
