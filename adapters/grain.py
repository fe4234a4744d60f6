"""A ``JestDataset`` as a dataset of Grain, and Grain's datasets as a source.

::

    grain_dataset    sub-batches for a training loop of JAX: NumPy arrays, with Grain's checkpoints
    GrainSource      what a JestDataset reads: a pipeline of Grain, resumed exactly
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import grain

from jest_loader.batch import Batch, to_numpy
from jest_loader.checks import shown, whole
from jest_loader.loader.dataset import JestDataset


def grain_dataset(
    make: Callable[[], JestDataset], *, num_epochs: int | None = 1
) -> "JestIterDataset":
    """A dataset of Grain that yields sub-batches, all of one shape.

    Args:
        make: Returns a new ``JestDataset``; called by each ``iter``.
        num_epochs: How many epochs an iterator has, each in its own order; None repeats for ever.

    Raises:
        ValueError: if ``num_epochs`` is below 1.
    """
    return JestIterDataset(make, None if num_epochs is None else whole("num_epochs", num_epochs, 1))


class JestIterDataset(grain.IterDataset[Batch]):  # type: ignore[misc] # Grain is not in .venv.
    """What ``grain_dataset`` returns."""

    def __init__(self, make: Callable[[], JestDataset], num_epochs: int | None) -> None:
        super().__init__()
        self._make, self._num_epochs = make, num_epochs

    def __iter__(self) -> "JestDatasetIterator":
        """An iterator over a new dataset.

        Raises:
            ValueError: if ``make`` makes no ``JestDataset``.
        """
        dataset: object = self._make()
        if not isinstance(dataset, JestDataset):
            raise ValueError(
                f"make must return a JestDataset, got {type(dataset).__name__}; write "
                "grain_dataset(lambda: JestDataset(...))"
            )
        return JestDatasetIterator(dataset, self._num_epochs)

    def __reduce__(self) -> NoReturn:
        raise ValueError(
            "a JestDataset must run in the training process, where the models are, and cannot be "
            "sent to workers; leave out mp_prefetch, or call it on the pipeline of its GrainSource"
        )

    def __str__(self) -> str:
        return f"JestIterDataset(num_epochs={self._num_epochs})"


class JestDatasetIterator(grain.DatasetIterator[Batch]):  # type: ignore[misc] # As above.
    """Yields sub-batches, whose tensors become NumPy arrays over the same memory.

    Other columns stay as they are: arrays, lists of strings, ``RaggedBytes``.
    """

    def __init__(self, dataset: JestDataset, num_epochs: int | None) -> None:
        super().__init__()
        self._dataset, self._num_epochs = dataset, num_epochs
        self._pass: Iterator[Batch] | None = None
        self._is_closed = False

    @property
    def dataset(self) -> JestDataset:
        """What it iterates, with ``stats``, ``counts`` and ``epoch``."""
        return self._dataset

    def __next__(self) -> Batch:
        """The next sub-batch.

        Raises:
            ValueError: if the iterator is closed; as ``JestDataset`` raises.
        """
        if self._is_closed:
            raise ValueError("a closed iterator must not go on; call iter(dataset) again")
        while self._num_epochs is None or self._dataset.epoch < self._num_epochs:
            if self._pass is None:
                self._pass = iter(self._dataset)
            for batch in self._pass:
                return to_numpy(batch)
            self._pass = None
        raise StopIteration

    def get_state(self) -> dict[str, Any]:
        """The state after the last sub-batch delivered, as plain JSON values.

        Raises:
            ValueError: if the source cannot save its state, or only with values that are not JSON.
        """
        state = self._dataset.state_dict()
        try:
            json.dumps(state)
        except TypeError as error:
            source = type(self._dataset.source).__name__
            raise ValueError(
                "the state of a Grain iterator must be JSON, which that of a "
                f"{source} is not ({error}); use GrainSource, MdsSource or ZarrSource"
            ) from error
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on after the sub-batch at which ``get_state`` was called.

        Raises:
            ValueError: if the state is damaged, or of another configuration.
        """
        self._dataset.load_state_dict(state)
        self._pass = None

    def close(self) -> None:
        """End reading ahead; the iterator cannot go on."""
        self._is_closed = True
        self._dataset.close()
        super().close()

    def __str__(self) -> str:
        return f"JestDatasetIterator(epoch={self._dataset.epoch})"


class GrainSource:
    """Batches of a Grain pipeline for a ``JestDataset``, which goes on exactly where it was.

    Args:
        make_epoch: Called with the number of an epoch, from 0; returns its batches, the same for
            the same number: a ``MapDataset``, an ``IterDataset`` or a ``DataLoader`` of one epoch,
            as in ``lambda epoch: dataset.seed(epoch).shuffle().batch(256)``.

    Raises:
        ValueError: if ``make_epoch`` is no function.
    """

    def __init__(self, make_epoch: Callable[[int], Iterable[Batch]]) -> None:
        if not callable(make_epoch):
            raise ValueError(
                f"make_epoch must be a function of the epoch, got {type(make_epoch).__name__}; "
                "write GrainSource(lambda epoch: dataset.seed(epoch).shuffle().batch(256))"
            )
        self._make_epoch = make_epoch
        self._epoch = 0
        self._start: Any = None  # Of the next iterator, in Grain's words; None is the beginning.
        self._newest: Any = None  # The newest iterator, once it is drawn from.

    def __iter__(self) -> Iterator[Batch]:
        """The epoch's batches, from where the source stands."""
        batches = self._newest = self._begun()
        yield from batches
        if self._newest is batches:
            self._move_to(self._epoch + 1, None)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iterator start ``epoch``; a loaded position in that epoch is kept."""
        epoch = whole("epoch", epoch, 0)
        if epoch != self._epoch:
            self._move_to(epoch, None)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch drawn, as plain JSON values."""
        if self._newest is not None:
            return {"epoch": self._epoch, "iterator": _state(self._newest)}
        if self._start is None:
            self._start = _state(self._begun())
        return {"epoch": self._epoch, "iterator": self._start}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iterator start where ``state_dict`` was taken.

        Raises:
            ValueError: if it is no state of a ``GrainSource``.
        """
        if set(state_dict) != {"epoch", "iterator"}:
            raise ValueError(
                "the state of a GrainSource must hold epoch and iterator, got "
                f"{shown(repr(state_dict))}; load another saved state, or start without one"
            )
        self._move_to(whole("the state's epoch", state_dict["epoch"], 0), state_dict["iterator"])

    def _move_to(self, epoch: int, start: Any) -> None:
        self._epoch, self._start, self._newest = epoch, start, None

    def _begun(self) -> Any:
        """A new iterator of Grain's that stands at the start."""
        batches: Any = iter(self._make_epoch(self._epoch))
        if self._start is not None:
            is_loader = isinstance(batches, grain.DataLoaderIterator)
            batches.set_state(json.dumps(self._start).encode() if is_loader else self._start)
        return batches


def _state(batches: Any) -> Any:
    """An iterator's state; a DataLoader has its JSON as bytes."""
    state = batches.get_state()
    return json.loads(state) if isinstance(state, bytes) else state
