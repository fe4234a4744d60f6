"""What a ``JestDataset`` is made of, and the sentences for what does not go together."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from typing import Any

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.loader.data_loader import is_shardable
from jest_loader.loader.options import Options
from jest_loader.loader.parts import check_parts
from jest_loader.loader.position import Position
from jest_loader.loader.promises import Declared
from jest_loader.loader.reference_passed import compares
from jest_loader.loader.schedule import Step
from jest_loader.loader.seen_candidates import has_turns, seen_function
from jest_loader.loader.sub_batch_size import warn_if_not_known
from jest_loader.loader.super_batch import Prepare, size_error
from jest_loader.ops.noise import fold
from jest_loader.protocols import (
    GainSelector,
    Scorer,
    Selector,
    Snapshots,
    Source,
    WithEqualBy,
    WithLearner,
    WithLoss,
    WithReference,
)
from jest_loader.selecting.selectors import UniformSelector, moves_rows


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of ``JestDataset``, which describes them, once they are known to fit.

    Raises:
        ValueError: if they do not.
    """

    source: Source
    scorer: Scorer | None
    selector: Selector
    super_batch_size: int
    sub_batch_size: int
    prepare: Prepare | None
    materialize: Callable[[Batch], Any] | None
    options: Options

    def __post_init__(self) -> None:
        check_parts(self)
        for name in ("super_batch_size", "sub_batch_size"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        self.declared.check()
        _check_sizes(self.declared, self.super_batch_size, self.sub_batch_size)
        self._check_emit()
        self._check_seen()
        self._check_schedule()
        self._check_overlap()
        warn_if_not_known(self.scorer, self.options.group)

    @property
    def until_passed(self) -> bool:
        """Whether selection ends once the learner has passed the reference."""
        schedule = self.options.schedule
        return schedule is not None and schedule.until is not None

    @property
    def excludes_seen(self) -> bool:
        """Whether candidates that the reference was trained on are left out."""
        return self.options.exclude_seen or has_turns(self.scorer)

    @property
    def declared(self) -> Declared:
        """What is known of the source's size."""
        return Declared(self.source, self.options.batch_size, self.options.num_examples)

    def steps(self, start: Position) -> Iterator[Step]:
        """How the sub-batches of an epoch are chosen after a position in it, without end."""
        # The epoch's own key, counted on.
        key = fold(fold(self.options.seed, start.epoch)) + start.super_batches
        selects = start.selects(start.first_step)
        return (
            self._step(start.num_steps + ahead, key + ahead, selects=selects) for ahead in count()
        )

    def super_batch_size_at(self, number: int, position: Position) -> int:
        """Candidates read for sub-batch ``number`` of the run, in the position's epoch."""
        selects = position.selects(position.first_step)
        return self._step(number, key=0, selects=selects).super_batch_size

    def num_sub_batches(self, position: Position, num_shards: int) -> int:
        """Sub-batches of the epoch that a position is in.

        Args:
            position: In the epoch.
            num_shards: Among how many ranks the source is going to be divided.

        Raises:
            TypeError: if the source's size is not known.
        """
        rows = self.declared.known_rows(num_shards)
        if self.options.schedule is None:
            return rows // self.super_batch_size
        number = position.first_step
        while rows >= (size := self.super_batch_size_at(number, position)):
            rows -= size
            number += 1
        return number - position.first_step

    def described(self) -> dict[str, str | int | None]:
        """The kinds of the parts and the sizes: what fits a line."""
        return {
            "source": type(self.source).__name__,
            "scorer": None if self.scorer is None else type(self.scorer).__name__,
            "selector": type(self.selector).__name__,
            "super_batch_size": self.super_batch_size,
            "sub_batch_size": self.sub_batch_size,
        }

    def selector_at(self, step: Step) -> Selector:
        """The selector with the step's gain; draws uniformly in a uniform step."""
        if step.uniform:
            return UniformSelector(quota="global" if moves_rows(self.selector) else "equal")
        if step.gain == 1.0:
            return self.selector
        selector: Any = self.selector
        with_gain: Selector = replace(selector, gain=selector.gain * step.gain)
        return with_gain

    def check_ranks(self, num_ranks: int) -> None:
        """Raise ``ValueError`` unless so many ranks can choose with these."""
        if num_ranks == 1:
            return
        if self.options.overlap:
            raise ValueError(
                f"overlap=True works on one rank only, got {num_ranks}: the thread that chooses "
                "would mix its collectives with those of training steps; use overlap=False"
            )
        if self.options.emit_reference and moves_rows(self.selector):
            raise ValueError(
                "emit_reference must not be True with quota='global' over several ranks, since "
                "rows move without their embeddings; use quota='equal'"
            )

    def configuration(self, num_ranks: int) -> dict[str, Any]:
        """What must be equal when a state is loaded, for the run to go on as it would have."""
        batch_size = self.declared.batch_size
        scorer: object = self.scorer
        loss = scorer.loss if isinstance(scorer, WithLoss) else None
        equal_by = scorer.equal_by if isinstance(scorer, WithEqualBy) else None
        schedule = self.options.schedule
        return {
            "super_batch_size over all ranks": num_ranks * self.super_batch_size,
            "sub_batch_size over all ranks": num_ranks * self.sub_batch_size,
            "source batch size over all ranks": batch_size and num_ranks * batch_size,
            # Only a source that deals its rows itself can say where another number would be.
            "number of ranks": None if is_shardable(self.source) else num_ranks,
            "seed": self.options.seed,
            "scorer": type(self.scorer).__name__,
            "loss": loss if isinstance(loss, str) else None,  # Of yours it may be a function.
            "equal_by": equal_by if isinstance(equal_by, str) else None,
            "selector": type(self.selector).__name__,
            **{f"selector.{name}": value for name, value in _fields(self.selector).items()},
            "schedule": None if schedule is None else repr(schedule),
            "overlap": self.options.overlap,
            "exclude_seen": self.excludes_seen,
        }

    def _step(self, number: int, key: int, *, selects: bool) -> Step:
        schedule = self.options.schedule
        if schedule is None:
            return Step(number, key, self.super_batch_size)
        if schedule.is_uniform(number) or not selects:
            return Step(number, key, self._uniform_size(), uniform=True)
        ratio = schedule.filter_ratio_at(number)
        size = self.super_batch_size if ratio is None else self._size_at(ratio)
        return Step(number, key, size, schedule.gain_at(number))

    def _uniform_size(self) -> int:
        """The fewest candidates that make a sub-batch and are whole batches of the source."""
        batch_size = self.declared.batch_size or self.sub_batch_size
        return -(-self.sub_batch_size // batch_size) * batch_size

    def _size_at(self, filter_ratio: float) -> int:
        return round(self.sub_batch_size / (1 - filter_ratio))

    def _check_emit(self) -> None:
        if self.options.emit_reference and not isinstance(self.scorer, WithReference):
            raise ValueError(
                "emit_reference=True needs a scorer with a reference, got "
                f"{type(self.scorer).__name__}; use Learnability or EasyReference"
            )

    def _check_seen(self) -> None:
        if self.options.exclude_seen and seen_function(self.scorer) is None:
            raise ValueError(
                "exclude_seen=True needs a reference that knows what it was trained on, got "
                f"{type(self.scorer).__name__} with none that does; build the cache from a "
                "checkpoint of jest-loader train, or say it as seen= of FrozenReference or of build"
            )

    def _check_schedule(self) -> None:
        schedule = self.options.schedule
        if schedule is None:
            return
        if schedule.gain and not (
            is_dataclass(self.selector) and isinstance(self.selector, GainSelector)
        ):
            raise ValueError(
                "a schedule of gains needs a selector that is a dataclass with a gain, "
                f"got {type(self.selector).__name__}"
            )
        if schedule.until is not None and not compares(self.scorer):
            raise ValueError(
                "until='reference_passed' of a schedule needs a scorer that compares a learner "
                f"with a reference, got {type(self.scorer).__name__}; use Learnability, or "
                "stop_fraction"
            )
        for ratio in schedule.filter_ratio.values():
            size = self._size_at(ratio)
            if abs(1 - self.sub_batch_size / size - ratio) > 1e-6:
                raise ValueError(
                    "a filter ratio must leave whole candidates: sub_batch_size / (1 - ratio) is "
                    f"{self.sub_batch_size / (1 - ratio):.2f} for {self.sub_batch_size} and {ratio}"
                )
            _check_sizes(self.declared, size, self.sub_batch_size)
            _check_held(self.declared, size, ratio)

    def _check_overlap(self) -> None:
        if not self.options.overlap or self.scorer is None:
            return
        learner = self.scorer.learner if isinstance(self.scorer, WithLearner) else self.scorer
        for part in (self.scorer, learner):
            if not isinstance(part, Snapshots):
                raise ValueError(
                    "overlap=True scores with a copy of the weights, so it needs a scorer and a "
                    f"learner with a method snapshot(), but {type(part).__name__} has none; use "
                    "overlap=False"
                )


def _fields(selector: Selector) -> dict[str, Any]:
    """What a selector was made with, but for what does not make it another."""
    if is_dataclass(selector) and not isinstance(selector, type):
        return {
            option.name: deepcopy(getattr(selector, option.name))
            for option in fields(selector)
            if option.compare
        }
    return {}


def _check_sizes(declared: Declared, super_batch_size: int, sub_batch_size: int) -> None:
    """Raise ``ValueError`` unless source batches make super-batches, and these sub-batches."""
    if sub_batch_size > super_batch_size:
        raise ValueError(
            "sub_batch_size must be at most super_batch_size, "
            f"got {sub_batch_size} and {super_batch_size}"
        )
    batch_size = declared.batch_size
    if batch_size is not None and super_batch_size % batch_size != 0:
        raise ValueError(size_error(super_batch_size, batch_size))


def _check_held(declared: Declared, super_batch_size: int, filter_ratio: float) -> None:
    """Raise ``ValueError`` if a source of known length cannot make what a schedule asks for."""
    held = declared.full_rows()
    if held is not None and super_batch_size > held:
        raise ValueError(
            f"a schedule's filter ratio of {filter_ratio} makes super-batches of "
            f"{super_batch_size} candidates, but an epoch of the source has {held}; lower it, or "
            "sub_batch_size"
        )
