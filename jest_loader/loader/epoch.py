"""One pass over a source: read super-batches and choose a sub-batch of each, in turn or ahead."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from jest_loader.batch import Batch
from jest_loader.loader.arguments import Arguments, check_stateful
from jest_loader.loader.choosing import Choice, Chooser
from jest_loader.loader.position import Position
from jest_loader.loader.read_ahead import ReadAhead
from jest_loader.loader.side_stream import SideStream
from jest_loader.loader.super_batch import SuperBatch, num_promised_rows, super_batches
from jest_loader.loader.telemetry import Counts, Measured
from jest_loader.ops.noise import fold
from jest_loader.protocols import Scorer, Snapshots, Source, Stateful, Trainable
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.ranks import Ranks


class Delivery(NamedTuple):
    """A sub-batch to hand out, the position after it, and what was measured."""

    sub_batch: Any
    position: Position
    measured: Measured


class Pass:
    """The sub-batches of one pass over a source that is at the position to start from.

    With ``overlap`` a thread chooses each sub-batch while the one before is trained on, by a copy
    of the weights from before that.

    Args:
        arguments: The dataset's.
        start: Where the pass starts.
        ranks: Who selects together.
    """

    def __init__(self, arguments: Arguments, start: Position, ranks: Ranks) -> None:
        self._arguments = arguments
        self._position = start
        self._stream = SideStream()
        self._agreement = Agreement(ranks)
        self._choices = _Choices(arguments, start, self._stream, self._agreement)
        self._threads: list[ReadAhead[Any, Any]] = []
        self._num_left = 0  # Rows at the end, over all ranks.
        self._ranks_ended_alike = True  # No source stands in the middle of an epoch.
        self._is_outdated = False  # What was chosen ahead must be chosen again.

    def __iter__(self) -> Iterator[Delivery]:
        """The sub-batches in order.

        Raises:
            ValueError: if batches or scores do not fit, or the data ends early.
        """
        overlap = self._arguments.overlap
        self._check_ranks_alike()
        with self._agreement.step("starting to read"):
            self._choices.super_batches = self._super_batches()
        deliveries = self._ahead() if overlap else map(self._finish, self._choices)
        while True:
            started = time.perf_counter()
            delivery = next(deliveries, None)
            if delivery is None:
                break
            if overlap:
                waiting_ms = 1000 * (time.perf_counter() - started)
                measured = replace(delivery.measured, waiting_ms=waiting_ms)
                delivery = delivery._replace(measured=measured)
            yield delivery
        self._end()

    @property
    def end(self) -> Position:
        """The position after the pass, which is the start of the next epoch."""
        source, left = self._arguments.source, self._num_left
        stateful = isinstance(source, Stateful) and self._ranks_ended_alike
        return Position(
            self._position.epoch + 1,
            num_steps=self._position.num_steps,
            counts=self._position.counts.plus(Counts(loaded=left, dropped=left)),
            source=check_stateful(source).state_dict() if stateful else None,
        )

    def choose_again(self) -> None:
        """Choose anew what was chosen ahead, as a run that is resumed here will."""
        self._is_outdated = self._arguments.overlap

    def close(self) -> None:
        """Read and choose no more; waits a moment for the threads."""
        for thread in self._threads:
            thread.close()

    def wait(self) -> None:
        """Wait until the threads have ended, once this is closed.

        Raises:
            TimeoutError: if the source has stalled.
        """
        for thread in self._threads:
            thread.wait()

    def _super_batches(self) -> Iterator[SuperBatch]:
        arguments, start = self._arguments, self._position
        # Here and not in the reader's thread: a DataLoader forks its workers now.
        batches = iter(arguments.source)
        if start.super_batches == 0 and start.source is not None:
            batches = _or_again(batches, arguments.source)
        sizes = (arguments.step(number).super_batch_size for number in count(start.num_steps))
        join = partial(super_batches, source=arguments.source, sizes=sizes)
        if arguments.prefetch == 0:
            return join(batches)
        reading = ReadAhead(
            batches, join, depth=arguments.prefetch, stall_timeout_s=arguments.stall_timeout_s
        )
        self._threads.append(reading)
        return reading

    def _ahead(self) -> Iterator[Delivery]:
        self._take_snapshot()
        deliveries: ReadAhead[SuperBatch, Any] = ReadAhead(
            self._choices.super_batches,
            self._choices.over,
            depth=1,
            stall_timeout_s=None,  # The source is watched already, and a model may take its time.
            finish=self._finish,
        )
        self._threads.append(deliveries)
        return deliveries

    def _finish(self, chosen: "_Chosen") -> Delivery:
        """What is done between two choices, in the training loop's thread."""
        scorer, overlap = self._arguments.scorer, self._arguments.overlap
        choice = chosen.choice
        if overlap:
            self._stream.join(choice.sub_batch, choice.chosen)
        if self._is_outdated:
            choice = self._choices.choose(chosen.super_batch, chosen.before, scorer)
            self._is_outdated = False
        if isinstance(scorer, Trainable):
            scorer.update(choice.chosen)
        if overlap:
            self._take_snapshot()
        # Of the choice that is delivered: the one before may have skipped other candidates.
        self._position = _after(chosen.before, chosen.super_batch, choice)
        self._choices.position = self._position
        return Delivery(choice.sub_batch, self._position, choice.measured)

    def _take_snapshot(self) -> None:
        if isinstance(self._arguments.scorer, Snapshots):
            self._choices.scorer = self._arguments.scorer.snapshot()
        self._stream.start()

    def _check_ranks_alike(self) -> None:
        source, start = self._arguments.source, self._position
        num_ranks = self._agreement.ranks.size
        if num_ranks == 1:
            return
        shards = hasattr(source, "shard")
        self._agreement.check_same(
            {
                "epoch": start.epoch,
                "super_batches": start.super_batches,
                "num_steps": start.num_steps,
                "source": check_stateful(source).state_dict() if shards else None,
                **self._arguments.configuration(num_ranks),
            }
        )

    def _end(self) -> None:
        """End the epoch on all ranks, some of whose sources may have more than others'."""
        source = self._arguments.source
        set_epoch = getattr(source, "set_epoch", None)
        with self._agreement.step("ending an epoch") as ending:
            if self._choices.ended_here:
                self._check_whole()
            else:
                self.close()
                self.wait()
                if set_epoch is not None:
                    set_epoch(self._position.epoch + 1)
            ending.number = self._choices.num_left
        with self._agreement.step("ending an epoch") as ended:
            ended.number = int(self._choices.ended_here or set_epoch is not None)
        self._num_left = ending.total
        self._ranks_ended_alike = ended.total == self._agreement.ranks.size

    def _check_whole(self) -> None:
        """Raise ``ValueError`` unless the pass had all that the source promised."""
        arguments, end, left = self._arguments, self._position, self._choices.num_left
        if end.super_batches == 0:
            wanted = arguments.step(end.num_steps).super_batch_size
            raise ValueError(_too_few(left, end.epoch, wanted))
        steps = range(end.num_steps - end.super_batches, end.num_steps)
        num_rows = left + sum(arguments.step(number).super_batch_size for number in steps)
        promised = num_promised_rows(arguments.source)
        if num_rows < promised:
            raise ValueError(
                f"the source must yield the {promised} examples that its length promises, but "
                f"ended after {num_rows} in epoch {end.epoch}; a shard may be missing or a worker "
                "may have died"
            )


class _Chosen(NamedTuple):
    """A choice, and what it takes to make it again."""

    choice: Choice
    super_batch: SuperBatch
    before: Position


class _Choices(Iterator[_Chosen]):
    """Chooses from one super-batch after the other; with ``overlap`` in a thread of its own."""

    def __init__(
        self, arguments: Arguments, start: Position, stream: SideStream, agreement: Agreement
    ) -> None:
        self._arguments = arguments
        self.position = start
        self._stream = stream
        self._agreement = agreement
        self.scorer = arguments.scorer
        self.super_batches: Iterator[SuperBatch] = iter(())
        self.num_left = 0  # Rows at the end that this rank read in vain.
        self.ended_here = False  # This rank had too few for a super-batch.

    def over(self, super_batches: Iterator[SuperBatch]) -> "_Choices":
        """The same from these super-batches."""
        self.super_batches = super_batches
        return self

    def __next__(self) -> _Chosen:
        before, ranks = self.position, self._agreement.ranks
        started, received = time.perf_counter(), ranks.bytes_received
        size = self._arguments.step(before.num_steps).super_batch_size
        with self._agreement.step("reading") as reading:
            super_batch = next(self.super_batches, None)
            num_rows = 0 if super_batch is None else super_batch.num_examples
            reading.number = int(num_rows == size)
        waiting_ms = 1000 * (time.perf_counter() - started)
        if super_batch is None or reading.total < ranks.size:
            self.num_left, self.ended_here = num_rows, num_rows < size
            raise StopIteration
        with self._stream.entered():
            choice = self.choose(super_batch, before, self.scorer)
        received = ranks.bytes_received - received
        measured = replace(choice.measured, waiting_ms=waiting_ms, bytes_received=received)
        choice = choice._replace(measured=measured)
        self.position = _after(before, super_batch, choice)
        return _Chosen(choice, super_batch, before)

    def choose(self, super_batch: SuperBatch, before: Position, scorer: Scorer | None) -> Choice:
        """The choice at a position, by the scorer that is given."""
        arguments = self._arguments
        step = arguments.step(before.num_steps)
        chooser = Chooser(
            None if step.uniform else scorer,
            arguments.selector_at(step),
            arguments.materialize,
            arguments.emit,
            step.super_batch_size,
            arguments.sub_batch_size,
            arguments.max_skipped_fraction,
            self._agreement,
        )
        with self._agreement.step("choosing a sub-batch") as choosing:
            choice = chooser.choose(
                super_batch.candidates,
                # The epoch's own key, counted on.
                key=fold(fold(arguments.seed, before.epoch)) + before.super_batches,
            )
            choosing.number = choice.measured.counts.skipped
        counts = choice.measured.counts.over(self._agreement.ranks.size, skipped=choosing.total)
        return choice._replace(measured=replace(choice.measured, counts=counts))


def _after(before: Position, super_batch: SuperBatch, choice: Choice) -> Position:
    return Position(
        before.epoch,
        before.super_batches + 1,
        before.num_steps + 1,
        before.counts.plus(choice.measured.counts),
        super_batch.source_state,
    )


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
