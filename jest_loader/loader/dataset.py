"""JestDataset: what users hold. One pass over it is one epoch of its source.

What is selected is a function of (seed, epoch, position) and the models; the state is that of the
last sub-batch delivered.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch.utils.data import IterableDataset

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.loader.arguments import Arguments
from jest_loader.loader.choice import Choice
from jest_loader.loader.data_loader import is_shardable, set_epoch
from jest_loader.loader.epoch import Pass
from jest_loader.loader.iterated_by import check_iterated_by
from jest_loader.loader.options import Options
from jest_loader.loader.position import Position
from jest_loader.loader.reference_passed import compares
from jest_loader.loader.remarks import Remarks
from jest_loader.loader.resuming import check_stateful, left_for, saved_position
from jest_loader.loader.telemetry import Counts, Measured, SelectionStats
from jest_loader.protocols import Scorer, Selector, Source, Stateful
from jest_loader.ranks.ranks import Ranks, ranks_of
from jest_loader.selecting.selectors import JointSelector


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
            also learns from each sub-batch. None goes with ``UniformSelector`` only.
        selector: Picks the sub-batch from the scores; None is ``JointSelector()``.
        super_batch_size: Candidates of each rank, scored at once; a multiple of the source's batch.
        sub_batch_size: Examples emitted, on each rank; the filter ratio is
            1 - sub_batch_size / super_batch_size.
        prepare: Called on each of the source's batches in the thread that reads: to decode,
            tokenize or shrink what is scored. It keeps rows and their order, and raises
            ``SkipRowsError`` for rows that it cannot use: then it is called again with the others.
        materialize: Called on each sub-batch before it is yielded, say to decode the chosen rows
            in full. Rows for which it raises ``SkipRowsError`` are replaced by others. All that it
            returns counts as trained, so it must not leave any out.
        options: Seed, schedule, overlap, limits; None is ``Options()``.

    Raises:
        ValueError: if the sizes do not fit, or scorer and selector cannot go together.
    """

    def __init__(
        self,
        source: Source,
        scorer: Scorer | None,
        selector: Selector | None = None,
        *,
        super_batch_size: int,
        sub_batch_size: int,
        prepare: Callable[[Batch], Batch] | None = None,
        materialize: Callable[[Batch], Any] | None = None,
        options: Options | None = None,
    ) -> None:
        self._arguments = Arguments(
            source,
            scorer,
            JointSelector() if selector is None else selector,
            super_batch_size,
            sub_batch_size,
            prepare,
            materialize,
            Options() if options is None else options,
        )
        self._ranks = Ranks()  # Those that the source was divided among.
        self._position = Position()  # After the last sub-batch delivered.
        self._measured: Measured | None = None
        self._remarks = Remarks()
        self._restored = False  # The next pass goes on from a loaded state.
        self._pass: Pass | None = None  # The newest one: older iterators must not go on.
        self._running = False
        self._began = False  # Something was read.

    @property
    def source(self) -> Source:
        """Where the candidates come from."""
        return self._arguments.source

    @property
    def scorer(self) -> Scorer | None:
        """What scores them."""
        return self._arguments.scorer

    @property
    def super_batch_size(self) -> int:
        """Candidates scored at once where no schedule says otherwise."""
        return self._arguments.super_batch_size

    @property
    def sub_batch_size(self) -> int:
        """Examples emitted at once."""
        return self._arguments.sub_batch_size

    @property
    def counts(self) -> Counts:
        """Examples loaded, scored, trained and dropped up to the last sub-batch delivered."""
        return self._position.counts

    @property
    def stats(self) -> SelectionStats | None:
        """What the last sub-batch delivered is worth and took; None before the first.

        Waits for the device, so ask for it when you log, not at each step.
        """
        return None if self._measured is None else self._measured.stats()

    @property
    def epoch(self) -> int:
        """The epoch of the last sub-batch delivered, or of the next one if a pass ended there."""
        return self._position.epoch

    @property
    def super_batches(self) -> int:
        """Super-batches of this epoch whose sub-batches were delivered."""
        return self._position.super_batches

    @property
    def filter_ratio(self) -> float:
        """The share of candidates not chosen."""
        return 1 - self.sub_batch_size / self.super_batch_size

    def __len__(self) -> int:
        """Sub-batches of the epoch that the dataset is in.

        Raises:
            TypeError: if the source has no length or no ``batch_size``.
            ValueError: if so many ranks cannot choose with these options.
        """
        num_ranks = self._ranks_now().size
        is_undivided = is_shardable(self.source) and self._ranks.size == 1
        return self._arguments.num_sub_batches(self._position, num_ranks if is_undivided else 1)

    def __repr__(self) -> str:
        parts = {
            **self._arguments.described(),
            "filter_ratio": round(self.filter_ratio, 4),
            "epoch": self.epoch,
            "super_batches": self.super_batches,
        }
        return f"JestDataset({', '.join(f'{name}={part}' for name, part in parts.items())})"

    def __iter__(self) -> Iterator[Batch]:
        """One pass; nothing is read before the first ``next``.

        Raises:
            ValueError: inside a DataLoader that would not pass sub-batches on as they are; while
                iterating, if batches or scores do not fit.
            RuntimeError: while iterating, if a newer pass was started or a state loaded meanwhile.
        """
        check_iterated_by(self, lambda: self._ranks_now().size)
        return self._run_pass()

    def set_epoch(self, epoch: int) -> None:
        """Start the next pass at the beginning of ``epoch``; does nothing while in that epoch.

        Raises:
            ValueError: if ``epoch`` is negative.
        """
        epoch = whole("epoch", epoch, 0)
        at_start = self._position.super_batches == 0
        if epoch == self._position.epoch and (at_start or self._restored or self._running):
            return
        self.close()
        self._position = left_for(self._position, epoch, self.source)

    def state_dict(
        self,
        num_samples: int | None = None,
        from_beginning: bool | None = None,
    ) -> dict[str, Any]:
        """The state after the last sub-batch delivered; plain values if the source's state is.

        It holds no weights: save the models, an online proxy among them, beside it. With
        ``overlap`` the choice made ahead is discarded and made again.

        Args:
            num_samples: Of this epoch up to here; MosaicML Composer passes it. 0 after sub-batches
                were delivered says that their epoch is over: the state is that of the next one.
            from_beginning: Ignored; MosaicML Composer passes it.

        Raises:
            ValueError: if the source cannot save its state.
        """
        if self._pass is not None:
            self._pass.choose_again()
        source, num_ranks = self.source, self._ranks_now().size
        is_undivided = is_shardable(source) and num_ranks != self._ranks.size
        fresh = not (self._began or self._restored or is_undivided)
        position = saved_position(self._position, source, is_fresh=fresh, is_running=self._running)
        if num_samples == 0 and position.super_batches > 0:
            position = left_for(position, position.epoch + 1, source)
        return position.to_state(self._arguments.configuration(num_ranks))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next pass go on after the sub-batch at which the state was saved.

        Raises:
            ValueError: if the state is incomplete, of another version or of another configuration,
                or the source cannot restore its part.
        """
        check_stateful(self.source)
        configuration = self._arguments.configuration(self._ranks_now().size)
        position = Position.from_state(state_dict, configuration)
        self.close()
        self._position = position
        self._restored = True

    def close(self) -> None:
        """End the running pass and its reading ahead; another may be started."""
        self._running = False
        if self._pass is not None:
            self._pass.close()

    def __enter__(self) -> "JestDataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_pass(self) -> Iterator[Batch]:
        self.close()
        self._begin()
        this_pass = self._pass = Pass(self._arguments, self._position, self._ranks)
        self._running = self._began = True
        try:
            # Not a loop over choices: it would keep each super-batch while the user trains.
            for sub_batch in map(self._deliver, this_pass):
                yield sub_batch
                self._check_newest(this_pass)
            self._position = this_pass.end(self._position)
        finally:
            if self._pass is this_pass:
                self.close()

    def _deliver(self, choice: Choice) -> Any:
        measured, state = choice.measured, choice.super_batch.source_state
        until_passed = self._arguments.until_passed
        self._position = self._position.after(measured, state, until_passed=until_passed)
        assert self._pass is not None, "it delivers"
        self._pass.position = self._position
        past = self._position.steps_past_reference
        self._measured = replace(
            measured, steps_past_reference=past if compares(self.scorer) else None
        )
        if self._ranks.rank == 0:
            excludes_seen = self._arguments.excludes_seen
            self._remarks.on(self._measured, ends=until_passed, excludes_seen=excludes_seen)
        return choice.sub_batch

    def _ranks_now(self) -> Ranks:
        """The ranks that select together.

        Asked for when they are needed: trainers start the processes' group at some time of their
        own.
        """
        ranks = self._ranks if self._ranks.size > 1 else ranks_of(self._arguments.options.group)
        self._arguments.check_ranks(ranks.size)
        return ranks

    def _begin(self) -> None:
        """Bring the source to where the next pass starts."""
        if self._pass is not None:
            self._pass.leave()
        ranks = self._ranks_now()
        if self._ranks.size != ranks.size and is_shardable(self.source):
            self.source.shard(ranks.rank, ranks.size)
        self._ranks = ranks
        start = self._position
        if start.super_batches > 0 and not self._restored:  # The pass before was left early.
            self._position = left_for(start, start.epoch + 1, self.source)
        elif self._restored and start.source is not None and isinstance(self.source, Stateful):
            self.source.load_state_dict(start.source)
            if start.left_early:
                next(iter(self.source), None)  # Its next pass is then that of the epoch after.
        self._restored = False
        set_epoch(self.source, self._position.epoch)

    def _check_newest(self, this_pass: Pass) -> None:
        if this_pass is not self._pass or not self._running:
            raise RuntimeError(
                "this iterator cannot go on, because the dataset was iterated again, its epoch set "
                "or a state was loaded since; use the newest iterator"
            )
