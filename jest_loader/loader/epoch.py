"""One pass over a source: read super-batches and choose a sub-batch of each, in turn or ahead."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from jest_loader.checks import ending_nothing
from jest_loader.loader.arguments import Arguments
from jest_loader.loader.choice import Choice
from jest_loader.loader.choosing import Chooser
from jest_loader.loader.data_loader import begun, is_shardable
from jest_loader.loader.own_rows import OwnRows
from jest_loader.loader.position import Position
from jest_loader.loader.promises import Promise
from jest_loader.loader.read_ahead import ReadAhead
from jest_loader.loader.resuming import check_stateful, state_of
from jest_loader.loader.row_counts import too_few, too_many
from jest_loader.loader.side_stream import SideStream
from jest_loader.loader.source_pass import Progress, leave, read
from jest_loader.loader.sub_batch_size import for_sub_batches
from jest_loader.loader.super_batch import SuperBatch, super_batches
from jest_loader.loader.telemetry import Counts
from jest_loader.protocols import EpochSource, Snapshots, Trainable
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.ranks import Ranks

_CALLED = "what scores, selects or materializes"


class Pass:
    """The choices of one pass over a source that is at the position to start from.

    With ``overlap`` a thread chooses each sub-batch while the one before is trained on, by a copy
    of the weights from before that.

    Args:
        arguments: The dataset's.
        start: Where the pass starts.
        ranks: Who selects together.
    """

    def __init__(self, arguments: Arguments, start: Position, ranks: Ranks) -> None:
        self._arguments = arguments
        self._start = start
        self._stream = SideStream(used=arguments.options.overlap)
        self._agreement = Agreement(ranks)
        is_divided = is_shardable(arguments.source) or arguments.options.own_rows
        self._own_rows = (
            None
            if ranks.size == 1 or is_divided
            else OwnRows(arguments.source, self._agreement, start.epoch)
        )
        self._chooser = Chooser(arguments, self._agreement)
        self._live = for_sub_batches(arguments.scorer, ranks.size * arguments.sub_batch_size)
        self._scorer = self._live  # With overlap, as it was before the step under way.
        self._threads: list[ReadAhead[Any, Any]] = []
        self._progress = Progress()  # Of reading the source.
        self._is_outdated = False  # What was chosen ahead must be chosen again.
        self.position = start  # After the last choice delivered.
        before = range(start.first_step, start.num_steps)
        sizes = (arguments.super_batch_size_at(number, start) for number in before)
        self._num_rows = sum(sizes)  # Read in this epoch.
        self._promise: Promise | None = None  # Known once a super-batch is.
        self._num_left = 0  # Rows at the end that this rank read in vain.
        self._ended_here = False  # This rank had too few for a super-batch.

    def __iter__(self) -> Iterator[Choice]:
        """The choices in order.

        Raises:
            ValueError: if batches or scores do not fit.
        """
        self._check_ranks_alike()
        with self._agreement.step("starting to read"):
            reading = self._super_batches()
        if not self._arguments.options.overlap:
            return map(self._finish, self._choices(reading))
        self._take_snapshot()
        choosing: ReadAhead[SuperBatch, Choice] = ReadAhead(
            reading,
            self._choices,
            depth=1,
            stall_timeout_s=None,  # The source is watched already, and a model may take its time.
            finish=self._finish,
            name="chooser",
        )
        self._threads.append(choosing)
        return iter(partial(_waited_for, choosing), None)

    def end(self, position: Position) -> Position:
        """End the epoch on all ranks, some of whose sources may have more than others'.

        Args:
            position: After the last choice.

        Returns:
            The start of the next epoch.

        Raises:
            ValueError: if the pass had less than the source promises.
        """
        source, next_epoch = self._arguments.source, position.epoch + 1
        with self._agreement.step("ending an epoch") as ending:
            if self._ended_here:
                self._check_whole(position)
            else:
                self.close()
                self.wait()
                if isinstance(source, EpochSource):
                    source.set_epoch(next_epoch)
            ending.numbers = (self._num_left,)
        with self._agreement.step("ending an epoch") as ended:
            ended.numbers = (int(self._ended_here or isinstance(source, EpochSource)),)
        no_source_is_midway = ended.totals == [self._agreement.ranks.size]
        (num_left,) = ending.totals
        counts = position.counts.plus(Counts(loaded=num_left, dropped=num_left))
        state = state_of(source) if no_source_is_midway else None
        return replace(position, counts=counts).at_start_of(next_epoch, state)

    def choose_again(self) -> None:
        """Choose anew what was chosen ahead, as a run that is resumed here will."""
        self._is_outdated = self._arguments.options.overlap

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

    def leave(self) -> None:
        """Once this is closed, wait and bring the source to where its next pass can start.

        Raises:
            TimeoutError: if the source has stalled.
        """
        self.wait()  # Two passes over one source would each get part of the data.
        leave(self._arguments.source, self._progress)

    def _super_batches(self) -> Iterator[SuperBatch]:
        arguments, options, start = self._arguments, self._arguments.options, self._start
        # Here and not in the reader's thread: a DataLoader forks its workers now.
        batches = read(
            arguments.source,
            self._progress,
            may_end_first=start.super_batches == 0 and start.source is not None,
        )
        if self._agreement.ranks.size > 1:
            batches = begun(batches, arguments.source, prefetch=options.prefetch)
        if self._own_rows is not None:
            batches = self._own_rows.noted(batches)
        join = partial(
            super_batches,
            declared=arguments.declared,
            prepare=arguments.prepare,
            steps=arguments.steps(start),
        )
        make = partial(_marked, join, self._stream)
        if options.prefetch == 0:
            return make(batches)
        reading = ReadAhead(
            batches, make, depth=options.prefetch, stall_timeout_s=options.stall_timeout_s
        )
        self._threads.append(reading)
        return reading

    def _choices(self, reading: Iterator[SuperBatch]) -> Iterator[Choice]:
        # Not a generator, whose frame would keep a super-batch while its sub-batch is trained on.
        return iter(partial(self._choose_next, reading), None)

    @ending_nothing(_CALLED)
    def _choose_next(self, reading: Iterator[SuperBatch]) -> Choice | None:
        """The next choice; None where a rank has no whole super-batch left."""
        started, ranks = time.perf_counter(), self._agreement.ranks
        received = ranks.bytes_received
        with self._agreement.step("reading") as agreed:
            super_batch = next(reading, None)
            if super_batch is not None:
                self._count(super_batch)
            is_whole = super_batch is not None and super_batch.is_whole
            agreed.numbers = (int(is_whole),)
        waiting_ms = 1000 * (time.perf_counter() - started)
        if self._own_rows is not None:
            self._own_rows.check_first()
        if super_batch is None or agreed.totals != [ranks.size]:
            self._num_left = 0 if super_batch is None else super_batch.num_rows
            self._ended_here = not is_whole
            return None
        if not self.position.selects(super_batch.step.number):
            super_batch = replace(super_batch, step=replace(super_batch.step, uniform=True))
        with self._stream.entered(super_batch.ready):
            choice = self._chooser.choose(super_batch, self._scorer)
        received = ranks.bytes_received - received
        measured = replace(choice.measured, waiting_ms=waiting_ms, bytes_received=received)
        return choice._replace(measured=measured)

    def _count(self, super_batch: SuperBatch) -> None:
        """Raise ``ValueError`` if the source yields more than its length promises."""
        self._num_rows += super_batch.num_rows
        if self._promise is None:
            self._promise = self._arguments.declared.promise(super_batch.batch_size)
        if self._num_rows > self._promise.most:
            raise ValueError(
                too_many(self._num_rows, self._promise, self._arguments.source, self._start)
            )

    @ending_nothing(_CALLED)
    def _finish(self, choice: Choice) -> Choice:
        """What is done between two choices, in the training loop's thread."""
        scorer, overlap = self._live, self._arguments.options.overlap
        if overlap:
            self._stream.join(choice.sub_batch, choice.rows)
        if self._is_outdated:
            choice = self._chooser.choose(choice.super_batch, scorer)
            self._is_outdated = False
        if isinstance(scorer, Trainable):
            scorer.update(choice.rows)
        if overlap:
            self._take_snapshot()
        return choice

    def _take_snapshot(self) -> None:
        if isinstance(self._live, Snapshots):
            self._scorer = self._live.snapshot()
        self._stream.start()

    def _check_ranks_alike(self) -> None:
        source, start = self._arguments.source, self._start
        num_ranks = self._agreement.ranks.size
        if num_ranks == 1:
            return
        self._agreement.ranks.begin_pass()
        if self._own_rows is not None:
            self._own_rows.check_loader()
        deals = is_shardable(source)
        self._agreement.check_same(
            {
                "epoch": start.epoch,
                "super_batches": start.super_batches,
                "num_steps": start.num_steps,
                "steps_past_reference": start.steps_past_reference,
                "selection_ends": start.selection_ends,
                "source": check_stateful(source).state_dict() if deals else None,
                **self._arguments.configuration(num_ranks),
            }
        )

    def _check_whole(self, end: Position) -> None:
        """Raise ``ValueError`` unless the pass had all that the source promised."""
        arguments, left = self._arguments, self._num_left
        if end.super_batches == 0:
            wanted = arguments.super_batch_size_at(end.num_steps, end)
            raise ValueError(too_few(left, end.epoch, wanted))
        if self._promise is not None and self._num_rows < self._promise.fewest:
            raise ValueError(
                f"the source must yield the {self._promise.fewest} examples that its length "
                f"promises, but ended after {self._num_rows} in epoch {end.epoch}; a shard may be "
                "missing or a worker may have died"
            )


def _marked(
    join: Callable[[Iterator[Any]], Iterator[SuperBatch]],
    stream: SideStream,
    batches: Iterator[Any],
) -> Iterator[SuperBatch]:
    """Super-batches marked by the stream; no generator, whose frame would keep them."""
    return map(stream.marked, join(batches))


def _waited_for(choosing: Iterator[Choice]) -> Choice | None:
    """The next choice, with the wait for it in place of the wait for its super-batch."""
    started = time.perf_counter()
    choice = next(choosing, None)
    if choice is None:
        return None
    waiting_ms = 1000 * (time.perf_counter() - started)
    return choice._replace(measured=replace(choice.measured, waiting_ms=waiting_ms))
