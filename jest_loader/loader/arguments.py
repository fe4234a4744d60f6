"""What a ``JestDataset`` is made of, and the sentences for what does not go together."""

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from jest_loader.batch import Batch
from jest_loader.checks import is_number, whole
from jest_loader.loader.schedule import Schedule, Step
from jest_loader.loader.super_batch import declared_batch_size, num_full_rows, size_error
from jest_loader.protocols import Scorer, Selector, Snapshots, Source, Stateful
from jest_loader.selecting.selectors import UniformSelector, moves_rows

EMITTED = ("reference",)


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
    materialize: Callable[[Batch], Any] | None
    emit: tuple[str, ...]
    schedule: Schedule | None
    overlap: bool
    seed: int
    prefetch: int
    stall_timeout_s: float | None
    max_skipped_fraction: float

    def __post_init__(self) -> None:
        _check_parts(self.source, self.scorer, self.selector, self.materialize)
        for name, least, most in (
            ("super_batch_size", 1, None),
            ("sub_batch_size", 1, None),
            ("seed", 0, 2**63 - 1),
            ("prefetch", 0, None),
        ):
            object.__setattr__(self, name, whole(name, getattr(self, name), least, most))
        _check_sizes(self.source, self.super_batch_size, self.sub_batch_size)
        _check_limits(self.stall_timeout_s, self.max_skipped_fraction)
        self._check_emit()
        self._check_schedule()
        self._check_overlap()

    def step(self, number: int) -> Step:
        """How sub-batch ``number`` of the run is chosen."""
        if self.schedule is None:
            return Step(self.super_batch_size)
        if self.schedule.is_uniform(number):
            return Step(self._uniform_size(), uniform=True)
        ratio = self.schedule.filter_ratio_at(number)
        size = self.super_batch_size if ratio is None else self._size_at(ratio)
        return Step(size, self.schedule.gain_at(number))

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
        """Raise ``ValueError`` unless several ranks can choose with these."""
        if self.overlap:
            raise ValueError(
                "overlap=True must not be used over several ranks, whose thread that chooses would "
                f"talk in between what training steps say, but there are {num_ranks}; use "
                "overlap=False"
            )
        if self.emit and moves_rows(self.selector):
            raise ValueError(
                "emit must be empty with quota='global' over several ranks, since rows move "
                f"without their embeddings, got {self.emit}; use quota='equal'"
            )

    def configuration(self, num_ranks: int) -> dict[str, Any]:
        """What must be equal when a state is loaded, for the run to go on as it would have."""
        batch_size = declared_batch_size(self.source)
        loss, equal_by = (getattr(self.scorer, name, None) for name in ("loss", "equal_by"))
        return {
            "super_batch_size over all ranks": num_ranks * self.super_batch_size,
            "sub_batch_size over all ranks": num_ranks * self.sub_batch_size,
            "source batch size over all ranks": batch_size and num_ranks * batch_size,
            # Only a source that deals its rows itself can say where another number would be.
            "number of ranks": None if hasattr(self.source, "shard") else num_ranks,
            "seed": self.seed,
            "scorer": type(self.scorer).__name__,
            "loss": loss if isinstance(loss, str) else None,  # Of yours it may be a function.
            "equal_by": equal_by if isinstance(equal_by, str) else None,
            "selector": type(self.selector).__name__,
            **{f"selector.{name}": value for name, value in _options(self.selector).items()},
            "schedule": None if self.schedule is None else repr(self.schedule),
            "overlap": self.overlap,
        }

    def _uniform_size(self) -> int:
        """The fewest candidates that make a sub-batch and are whole batches of the source."""
        batch_size = declared_batch_size(self.source) or self.sub_batch_size
        return -(-self.sub_batch_size // batch_size) * batch_size

    def _size_at(self, filter_ratio: float) -> int:
        return round(self.sub_batch_size / (1 - filter_ratio))

    def _check_emit(self) -> None:
        given: object = self.emit
        if not isinstance(given, tuple) or not set(given) <= set(EMITTED):
            raise ValueError(f"emit must be a tuple of {', '.join(EMITTED)}, got {self.emit!r}")
        if self.emit and not hasattr(self.scorer, "reference"):
            raise ValueError(
                "emit=('reference',) needs a scorer with a reference, "
                f"got {type(self.scorer).__name__}"
            )

    def _check_schedule(self) -> None:
        given: object = self.schedule
        if given is None:
            return
        if not isinstance(given, Schedule):
            raise ValueError(
                f"schedule must be a Schedule or None, got {given!r}; use Schedule(num_steps=...)"
            )
        assert self.schedule is not None
        if self.schedule.gain and not (
            is_dataclass(self.selector) and hasattr(self.selector, "gain")
        ):
            raise ValueError(
                "a schedule of gains needs a selector that is a dataclass with a gain, "
                f"got {type(self.selector).__name__}"
            )
        for ratio in self.schedule.filter_ratio.values():
            size = self._size_at(ratio)
            if abs(1 - self.sub_batch_size / size - ratio) > 1e-6:
                raise ValueError(
                    "a filter ratio must leave whole candidates: sub_batch_size / (1 - ratio) is "
                    f"{self.sub_batch_size / (1 - ratio):.2f} for {self.sub_batch_size} and {ratio}"
                )
            _check_sizes(self.source, size, self.sub_batch_size)
            _check_held(self.source, size, ratio)

    def _check_overlap(self) -> None:
        if self.overlap not in (True, False):
            raise ValueError(f"overlap must be True or False, got {self.overlap!r}")
        if not self.overlap or self.scorer is None:
            return
        for part in (self.scorer, getattr(self.scorer, "learner", self.scorer)):
            if not isinstance(part, Snapshots):
                raise ValueError(
                    "overlap=True scores with a copy of the weights, so it needs a scorer and a "
                    f"learner with a method snapshot(), but {type(part).__name__} has none; use "
                    "overlap=False"
                )


def _options(selector: Selector) -> dict[str, Any]:
    """What a selector was made with, but for what does not make it another."""
    if is_dataclass(selector) and not isinstance(selector, type):
        return {
            option.name: deepcopy(getattr(selector, option.name))
            for option in fields(selector)
            if option.compare
        }
    return {}


def _check_parts(source: object, scorer: object, selector: object, materialize: object) -> None:
    """Raise ``ValueError`` unless each part is what it must be."""
    if materialize is not None and not callable(materialize):
        raise ValueError(f"materialize must be a function or None, got {materialize!r}")
    if not isinstance(source, Source):
        raise ValueError(f"source must be an iterable of batches, got {type(source).__name__}")
    if not isinstance(selector, Selector) or isinstance(selector, type):
        raise ValueError(
            f"selector must be an object with a select method, got {selector!r}; "
            "use one like JointSelector()"
        )
    if scorer is None and not isinstance(selector, UniformSelector):
        raise ValueError(
            f"scorer=None goes with UniformSelector only, got {type(selector).__name__}; "
            "pass a scorer"
        )
    if scorer is not None and (not isinstance(scorer, Scorer) or isinstance(scorer, type)):
        raise ValueError(
            "scorer must be an object with a score(super_batch) method, "
            f"got {type(scorer).__name__}; wrap a model as in "
            "Learnability(LiveLearner(model), reference)"
        )


def _check_sizes(source: Source, super_batch_size: int, sub_batch_size: int) -> None:
    """Raise ``ValueError`` unless source batches make super-batches, and these sub-batches."""
    if sub_batch_size > super_batch_size:
        raise ValueError(
            "sub_batch_size must be at most super_batch_size, "
            f"got {sub_batch_size} and {super_batch_size}"
        )
    batch_size = declared_batch_size(source)
    if batch_size is not None and super_batch_size % batch_size != 0:
        raise ValueError(size_error(super_batch_size, batch_size))


def _check_held(source: Source, super_batch_size: int, filter_ratio: float) -> None:
    """Raise ``ValueError`` if a source of known length cannot make what a schedule asks for."""
    try:
        held = num_full_rows(source)
    except TypeError:  # Its length is not known.
        return
    if super_batch_size > held:
        raise ValueError(
            f"a schedule's filter ratio of {filter_ratio} makes super-batches of "
            f"{super_batch_size} candidates, but an epoch of the source has {held}; lower it, or "
            "sub_batch_size"
        )


def check_stateful(source: Source) -> Stateful:
    """The source; raises ``ValueError`` unless it can save and restore its state."""
    if not isinstance(source, Stateful):
        raise ValueError(
            f"the state of a {type(source).__name__} can be neither saved nor restored, since it "
            "has no state_dict; use torchdata's StatefulDataLoader in place of DataLoader, or a "
            "source from jest_loader.adapters"
        )
    return source


def _check_limits(stall_timeout_s: float | None, max_skipped_fraction: float) -> None:
    """Raise ``ValueError`` unless both limits are in range."""
    if stall_timeout_s is not None and not (
        is_number(stall_timeout_s) and 0 < stall_timeout_s < threading.TIMEOUT_MAX
    ):
        raise ValueError(
            f"stall_timeout_s must be a positive number of seconds, got {stall_timeout_s!r}; use "
            "None to wait for ever"
        )
    if not is_number(max_skipped_fraction) or not 0 <= max_skipped_fraction <= 1:
        raise ValueError(f"max_skipped_fraction must be from 0 to 1, got {max_skipped_fraction!r}")
