"""JestDataset: the loop from super-batches to sub-batches, and its state.

    source --> super-batch --> scorer --> scores --> selector --> sub-batch --> materialize

One pass over the dataset is one epoch of the source. What is selected is a function of (seed,
epoch, position) and the models; the state is that of the last sub-batch delivered.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from jest_loader.agreement import Agreement, InStep
from jest_loader.arguments import check_limits, check_parts, check_sizes, check_stateful
from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.choice import Chooser
from jest_loader.distributed import Ranks, ranks_of
from jest_loader.ops.noise import fold
from jest_loader.prefetch import ReadAhead
from jest_loader.protocols import Scorer, Selector, Source, Stateful
from jest_loader.selection import JointSelector
from jest_loader.state import Position
from jest_loader.super_batch import (
    SuperBatch,
    declared_batch_size,
    num_full_rows,
    num_promised_rows,
    super_batches,
)
from jest_loader.telemetry import Counts


class JestDataset(IterableDataset[Batch]):
    """Reads super-batches, scores the candidates and yields the sub-batch most worth training on.

    Iterate it directly, in the training process. Each pass is the next epoch, also after an early
    ``break``; ``set_epoch`` chooses another. Only the newest iterator is live.

    Args:
        source: Any iterable of batches of one size: a DataLoader, an MdsSource, a list. A batch is
            a dict, tuple, list or dataclass (nested as you like) of tensors, arrays or lists with
            one row per example. Where the source has ``set_epoch``, that is called at the start of
            each pass.
        scorer: Anything with ``score(super_batch) -> Scores``. A scorer with ``update(sub_batch)``
            also learns from each sub-batch. None scores nothing and goes with ``UniformSelector``
            only.
        selector: Picks the sub-batch from the scores.
        super_batch_size: Candidates scored at once, on each rank where several select together; a
            multiple of the source's batch size.
        sub_batch_size: Examples emitted, on each rank; the filter ratio is
            1 - sub_batch_size / super_batch_size.
        materialize: Called on each sub-batch before it is yielded, say to decode the chosen rows
            in full.
        seed: From 0 to 2^63 - 1; changes what is drawn.
        prefetch: Super-batches that a thread reads ahead while the last one is scored and trained
            on; 0 reads in the training loop's own thread.
        stall_timeout_s: With ``prefetch``, the longest to wait for a super-batch before an error;
            None waits for ever.
        max_skipped_fraction: The share of a super-batch's candidates, or one candidate if that is
            less, that may be left out because their scores are not finite or ``materialize`` raised
            ``BadSamplesError`` for them. Others take their places. 0 allows none.

    Raises:
        ValueError: if the sizes do not fit, or scorer and selector cannot go together.
    """

    def __init__(  # noqa: PLR0913, the parts and the seven keywords of a loader
        self,
        source: Source,
        scorer: Scorer | None,
        selector: Selector = JointSelector(),
        *,
        super_batch_size: int,
        sub_batch_size: int,
        materialize: Callable[[Batch], Any] | None = None,
        seed: int = 0,
        prefetch: int = 1,
        stall_timeout_s: float | None = 1800.0,
        max_skipped_fraction: float = 0.01,
    ) -> None:
        check_parts(source, scorer, selector, materialize)
        self.super_batch_size = whole("super_batch_size", super_batch_size, 1)
        self.sub_batch_size = whole("sub_batch_size", sub_batch_size, 1)
        check_sizes(source, self.super_batch_size, self.sub_batch_size)
        self.seed = whole("seed", seed, 0, 2**63 - 1)
        self.source = source
        self.scorer = scorer
        self.selector = selector
        self.materialize = materialize
        self.prefetch = whole("prefetch", prefetch, 0)
        check_limits(stall_timeout_s, max_skipped_fraction)
        self.stall_timeout_s = stall_timeout_s
        self.max_skipped_fraction = max_skipped_fraction
        self.ranks = Ranks()
        self._reading: ReadAhead[Batch, SuperBatch] | None = None
        self._delivered = Position()
        self._restored = False  # The next pass goes on from a loaded state.
        self._passes = 0  # The number of the newest pass: older iterators must not go on.
        self._running = False
        self._began = False  # Something was read.

    @property
    def counts(self) -> Counts:
        """Examples loaded, scored, trained and dropped up to the last sub-batch delivered."""
        return self._delivered.counts

    @property
    def epoch(self) -> int:
        """The epoch of the last sub-batch delivered, or of the next one if a pass ended there."""
        return self._delivered.epoch

    @property
    def filter_ratio(self) -> float:
        """The share of candidates left out."""
        return 1 - self.sub_batch_size / self.super_batch_size

    def __len__(self) -> int:
        """Sub-batches per epoch.

        Raises:
            TypeError: if the source has no length or no ``batch_size``.
        """
        self._find_ranks()
        return num_full_rows(self.source) // self.super_batch_size

    def __iter__(self) -> Iterator[Batch]:
        """One pass; nothing is read before the first ``next``.

        Raises:
            ValueError: inside a DataLoader worker; while iterating, if batches or scores do not
                fit.
            RuntimeError: while iterating, if a newer pass was started or a state loaded meanwhile.
        """
        if get_worker_info() is not None:
            raise ValueError(
                "JestDataset must run in the training process, where the models are, but was "
                "iterated in a DataLoader worker; iterate it directly, or use "
                "DataLoader(dataset, batch_size=None, num_workers=0)"
            )
        return self._run_pass()

    def set_epoch(self, epoch: int) -> None:
        """Start the next pass at the beginning of ``epoch``; does nothing while in that epoch.

        Raises:
            ValueError: if ``epoch`` is negative.
        """
        epoch = whole("epoch", epoch, 0)
        at_start = self._delivered.super_batches == 0
        if epoch == self._delivered.epoch and (at_start or self._restored or self._running):
            return
        self._supersede()
        self._delivered = Position(epoch, counts=self._delivered.counts)
        self._restored = False

    def state_dict(
        self,
        num_samples: int | None = None,
        from_beginning: bool | None = None,
    ) -> dict[str, Any]:
        """The state after the last sub-batch delivered; plain values if the source's state is.

        It holds no weights: save the models, an online proxy among them, beside it. The arguments
        are ignored; MosaicML Composer passes them.

        Raises:
            ValueError: if the source cannot save its state.
        """
        source = check_stateful(self.source)
        self._find_ranks()
        position = self._delivered
        if not (self._began or self._restored):  # The source may have an order of its own.
            position = replace(position, source=source.state_dict())
        return position.to_state(self._configuration())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next pass go on after the sub-batch at which the state was saved.

        Raises:
            ValueError: if the state is incomplete, of another version or of another configuration,
                or the source cannot restore its part.
        """
        check_stateful(self.source)
        self._find_ranks()
        position = Position.from_state(state_dict, self._configuration())
        self._supersede()
        self._delivered = position
        self._restored = True

    def close(self) -> None:
        """End the running pass and its reading ahead; another may be started."""
        self._supersede()

    def __enter__(self) -> "JestDataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_pass(self) -> Iterator[Batch]:
        self._supersede()
        this_pass, self._running = self._passes, True
        try:
            yield from self._sub_batches(self._begin(), this_pass)
        finally:
            if self._passes == this_pass:
                self.close()

    def _find_ranks(self) -> None:
        """Find the ranks that select together, and let the source divide its rows among them.

        Not before they are needed: trainers start the processes' group at some time of their own.
        """
        if self.ranks.size == 1:
            self.ranks = ranks_of(getattr(self.selector, "group", None))
            if self.ranks.size > 1 and hasattr(self.source, "divide"):
                self.source.divide(self.ranks.rank, self.ranks.size)

    def _begin(self) -> Position:
        """Where this pass starts, with the source brought there."""
        self._find_ranks()
        if self._reading is not None:
            self._reading.wait()  # Two passes over one source would each get part of the data.
            self._reading = None
        start = self._delivered
        if start.super_batches > 0 and not self._restored:  # The pass before was left early.
            start = Position(start.epoch + 1, counts=start.counts)
        if self._restored and start.source is not None and isinstance(self.source, Stateful):
            self.source.load_state_dict(start.source)
        self._restored = False
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(start.epoch)
        return start

    def _sub_batches(self, position: Position, this_pass: int) -> Iterator[Batch]:
        agreement = Agreement(self.ranks)
        num_ranks = self.ranks.size
        self._check_ranks_alike(agreement, position)
        in_step = InStep(self._super_batches(position), agreement, self._is_whole)
        for super_batch in in_step:
            with agreement.step("choosing a sub-batch") as choosing:
                choice = self._chooser(agreement).choose(
                    super_batch.candidates,
                    seed=fold(self.seed, position.epoch),
                    step=position.super_batches,
                )
                choosing.number = choice.num_skipped
            position = Position(
                position.epoch,
                position.super_batches + 1,
                position.counts.plus(
                    loaded=num_ranks * self.super_batch_size,
                    scored=0 if self.scorer is None else num_ranks * self.super_batch_size,
                    trained=num_ranks * self.sub_batch_size,
                    skipped=choosing.total,
                ),
                super_batch.source_state,
            )
            del super_batch  # Not needed while its sub-batch is trained on.
            self._delivered = position
            yield choice.sub_batch
            self._check_newest(this_pass)
        left = 0 if in_step.last is None else in_step.last.num_examples
        with agreement.step("ending an epoch") as ending:
            if in_step.ended_here:
                self._check_whole(position, left)
            elif hasattr(self.source, "set_epoch"):  # It has more, which other ranks have not.
                self.source.set_epoch(position.epoch + 1)
            ending.number = left
        self._delivered = Position(
            position.epoch + 1,
            counts=position.counts.plus(loaded=ending.total, dropped=ending.total),
            source=self.source.state_dict() if isinstance(self.source, Stateful) else None,
        )

    def _is_whole(self, super_batch: SuperBatch) -> bool:
        return super_batch.num_examples == self.super_batch_size

    def _check_ranks_alike(self, agreement: Agreement, start: Position) -> None:
        if agreement.ranks.size == 1:
            return
        divided = hasattr(self.source, "divide")
        agreement.check_same(
            {
                "epoch": start.epoch,
                "super_batches": start.super_batches,
                "source": check_stateful(self.source).state_dict() if divided else None,
                **self._configuration(),
            }
        )

    def _super_batches(self, start: Position) -> Iterator[SuperBatch]:
        self._began = True
        # Here and not in the reader's thread: a DataLoader forks its workers now.
        batches = iter(self.source)
        if start.super_batches == 0 and start.source is not None:
            batches = _or_again(batches, self.source)
        join = partial(super_batches, source=self.source, size=self.super_batch_size)
        if self.prefetch == 0:
            return join(batches)
        self._reading = ReadAhead(
            batches, join, depth=self.prefetch, stall_timeout_s=self.stall_timeout_s
        )
        return self._reading

    def _chooser(self, agreement: Agreement) -> Chooser:
        return Chooser(
            self.scorer,
            self.selector,
            self.materialize,
            self.super_batch_size,
            self.sub_batch_size,
            self.max_skipped_fraction,
            agreement,
        )

    def _check_whole(self, end: Position, left: int) -> None:
        """Raise ``ValueError`` unless the pass that ended here had all that the source promised."""
        num_rows = end.super_batches * self.super_batch_size + left
        if end.super_batches == 0:
            raise ValueError(_too_few(num_rows, end.epoch, self.super_batch_size))
        promised = num_promised_rows(self.source)
        if num_rows < promised:
            raise ValueError(
                f"the source must yield the {promised} examples that its length promises, but "
                f"ended after {num_rows} in epoch {end.epoch}; a shard may be missing or a worker "
                "may have died"
            )

    def _supersede(self) -> None:
        self._passes += 1
        self._running = False
        if self._reading is not None:
            self._reading.close()

    def _check_newest(self, this_pass: int) -> None:
        if this_pass != self._passes:
            raise RuntimeError(
                "this iterator cannot go on, because the dataset was iterated again, its epoch set "
                "or a state was loaded since; use the newest iterator"
            )

    def _configuration(self) -> dict[str, Any]:
        """What must be equal when a state is loaded, for the run to go on as it would have."""
        num_ranks = self.ranks.size
        batch_size = declared_batch_size(self.source)
        return {
            "super_batch_size over all ranks": num_ranks * self.super_batch_size,
            "sub_batch_size over all ranks": num_ranks * self.sub_batch_size,
            "source batch size over all ranks": batch_size and num_ranks * batch_size,
            # Only a source that deals its rows itself can say where another number would be.
            "number of ranks": None if hasattr(self.source, "divide") else num_ranks,
            "seed": self.seed,
            "scorer": type(self.scorer).__name__,
            "loss": getattr(self.scorer, "loss", None),
            "selector": type(self.selector).__name__,
            **{f"selector.{name}": value for name, value in _options(self.selector).items()},
        }


def _or_again(batches: Iterator[Batch], source: Source) -> Iterator[Batch]:
    """A pass, or another if it is empty.

    A source whose state was taken at the end of an epoch may first end that: StreamingDataset does.
    """
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        yield from source


def _options(selector: Selector) -> dict[str, Any]:
    """What a selector was made with, but for what does not make it another."""
    if is_dataclass(selector) and not isinstance(selector, type):
        return {
            option.name: deepcopy(getattr(selector, option.name))
            for option in fields(selector)
            if option.compare
        }
    return {}


def _too_few(num_found: int, epoch: int, super_batch_size: int) -> str:
    if num_found == 0:
        return (
            f"the source is empty: it yielded no batch in epoch {epoch}; a generator can be read "
            "only once, pass an object that can be iterated again"
        )
    return (
        f"the source must hold at least one super-batch, but ended after {num_found} examples and "
        f"super_batch_size is {super_batch_size}; use a smaller one, or more data"
    )
