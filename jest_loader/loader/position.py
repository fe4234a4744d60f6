"""Where a dataset stands, and its form as a saved state."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jest_loader.checks import differ, shown, whole
from jest_loader.loader.reference_passed import LONG, STEPS_BETWEEN_LOOKS
from jest_loader.loader.telemetry import Counts, Measured
from jest_loader.state_digest import check_digest, with_digest

_VERSION = 6
_NUMBERS = ("epoch", "super_batches", "num_steps", "steps_past_reference")
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Position:
    """Where a dataset stands after some super-batches of an epoch.

    Args:
        epoch: The epoch, from 0.
        super_batches: Super-batches of this epoch whose sub-batches were delivered.
        num_steps: Sub-batches delivered over all epochs.
        steps_past_reference: Steps in a row up to here at which the learner was past the reference.
        selection_ends: The step, over all epochs, from which on nothing is selected any more; None
            while nothing has ended selection.
        counts: Examples up to here.
        source: The source's own state here; None before anything was read.
        left_early: The source's state is within the epoch before, the rest of which is left out.
    """

    epoch: int = 0
    super_batches: int = 0
    num_steps: int = 0
    steps_past_reference: int = 0
    selection_ends: int | None = None
    counts: Counts = field(default_factory=Counts)
    source: dict[str, Any] | None = None
    left_early: bool = False

    @property
    def first_step(self) -> int:
        """The first step of this epoch."""
        return self.num_steps - self.super_batches

    def selects(self, step: int) -> bool:
        """Whether selection has not ended before ``step``."""
        return self.selection_ends is None or step < self.selection_ends

    def after(
        self, measured: Measured, source: dict[str, Any] | None, *, until_passed: bool
    ) -> "Position":
        """The position after one more sub-batch.

        Args:
            measured: Its counts, and whether the learner was seen past the reference.
            source: The source's state right after that was read.
            until_passed: Whether selection ends once it has been for long: from the step after the
                next on, for which no thread can have chosen yet.
        """
        past, ends = self.steps_past_reference, self.selection_ends
        if measured.passed is not None:
            past = past + STEPS_BETWEEN_LOOKS if measured.passed else 0
        if until_passed and ends is None and past >= LONG:
            ends = self.num_steps + 2
        return replace(
            self,
            super_batches=self.super_batches + 1,
            num_steps=self.num_steps + 1,
            steps_past_reference=past,
            selection_ends=ends,
            counts=self.counts.plus(measured.counts),
            source=source,
            left_early=False,
        )

    def at_start_of(self, epoch: int, source: dict[str, Any] | None = None) -> "Position":
        """The position at the start of another epoch, where the source is in that state."""
        ends = self.selection_ends
        return replace(
            self,
            epoch=epoch,
            super_batches=0,
            selection_ends=None if ends is None else min(ends, self.num_steps),
            source=source,
            left_early=False,
        )

    def leaving_for(self, epoch: int) -> "Position":
        """The position at the start of another epoch, the rest of this one left out."""
        left_early = self.source is not None and (self.super_batches > 0 or self.left_early)
        return replace(self.at_start_of(epoch, self.source), left_early=left_early)

    def to_state(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The state to save: plain values if the source's state is."""
        state = {
            "version": _VERSION,
            "epoch": self.epoch,
            "super_batches": self.super_batches,
            "num_steps": self.num_steps,
            "steps_past_reference": self.steps_past_reference,
            "selection_ends": self.selection_ends,
            "counts": self.counts.to_dict(),
            "configuration": configuration,
            "source": self.source,
            "left_early": self.left_early,
        }
        return with_digest(state)

    @classmethod
    def from_state(cls, state: Any, configuration: dict[str, Any]) -> "Position":
        """The position that ``to_state`` saved.

        Raises:
            ValueError: if the state is damaged, of another version or of another configuration.
        """
        try:
            return cls._from_state(state, configuration)
        except ValueError:
            raise
        except Exception as error:  # Nested deeply enough, values cannot even be shown.
            raise ValueError(
                f"the state must be as it was saved, but cannot be read ({type(error).__name__}); "
                "load another saved state, or start without one"
            ) from error

    @classmethod
    def _from_state(cls, state: Any, configuration: dict[str, Any]) -> "Position":
        version = state.get("version") if isinstance(state, dict) else type(state).__name__
        if type(version) is not int or version != _VERSION:
            raise ValueError(
                f"a JestDataset's state must have version {_VERSION}, got {shown(version)}; "
                "load it with the release of jest-loader that saved it"
            )
        names = cls().to_state({}).keys()
        if missing := names - state.keys():
            raise ValueError(f"the state must be whole, but it lacks {', '.join(sorted(missing))}")
        _check_configuration(state["configuration"], configuration)
        ends = state["selection_ends"]
        position = cls(
            **{name: whole(f"the state's {name}", state[name], 0, _MOST) for name in _NUMBERS},
            selection_ends=None if ends is None else whole("the state's selection_ends", ends, 0),
            counts=_counts(state["counts"]),
            source=state["source"],
            left_early=state["left_early"],
        )
        position._check()
        check_digest(state, "the dataset's")
        return position

    def _check(self) -> None:
        """Raise ``ValueError`` if what the state says cannot be together."""
        if self.super_batches > 0 and self.source is None:
            raise ValueError(
                "the state must hold the source's state after "
                f"{self.super_batches} super-batches, but has none; it was saved from a source "
                "that cannot resume, start without it"
            )
        if self.source is not None and not isinstance(self.source, Mapping):
            raise ValueError(
                "the state must hold the source's state as a dict, got "
                f"{shown(repr(self.source))}; load another saved state, or start without one"
            )
        left_early: object = self.left_early
        within = self.super_batches > 0 or self.source is None
        if not isinstance(left_early, bool) or (left_early and within):
            raise ValueError(
                "the state's left_early must be True or False, and True only at the start of an "
                f"epoch, got {shown(repr(left_early))} after {self.super_batches} "
                "super-batches; load another saved state, or start without one"
            )
        if self.super_batches > self.num_steps:
            raise ValueError(
                f"the state's super_batches must be at most its num_steps, got "
                f"{self.super_batches} and {self.num_steps}; load another saved state, or start "
                "without one"
            )


def _check_configuration(saved: Any, now: dict[str, Any]) -> None:
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"the state's configuration must be a dict, got {shown(repr(saved))}; load another "
            "saved state, or start without one"
        )
    for name in {**saved, **now}:
        if differ(saved.get(name), now.get(name)):
            raise ValueError(
                "a state must be loaded with the configuration that it was saved with, but "
                f"{shown(name)} was {shown(saved.get(name))} and is now {shown(now.get(name))}; "
                "make the dataset as it was, or start without the state"
            )


def _counts(saved: Any) -> Counts:
    names = Counts().to_dict().keys()
    if not isinstance(saved, Mapping) or saved.keys() != names:
        raise ValueError(
            f"the state's counts must be a dict of {', '.join(names)}, got {shown(repr(saved))}; "
            "load another saved state, or start without one"
        )
    return Counts(**{n: whole(f"the state's counts of {n}", saved[n], 0, _MOST) for n in names})
