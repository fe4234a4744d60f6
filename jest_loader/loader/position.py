"""Where a dataset stands, and its form as a saved state."""

from dataclasses import dataclass, field
from typing import Any

from jest_loader.loader.telemetry import Counts

_VERSION = 3


@dataclass(frozen=True)
class Position:
    """Where a dataset stands after some super-batches of an epoch.

    Args:
        epoch: The epoch, from 0.
        super_batches: Super-batches of this epoch whose sub-batches were delivered.
        num_steps: Sub-batches delivered over all epochs.
        counts: Examples up to here.
        source: The source's own state here; None before anything was read.
    """

    epoch: int = 0
    super_batches: int = 0
    num_steps: int = 0
    counts: Counts = field(default_factory=Counts)
    source: dict[str, Any] | None = None

    def after(self, counts: Counts, source: dict[str, Any] | None) -> "Position":
        """The position after one more sub-batch.

        Args:
            counts: Examples of its super-batch.
            source: The source's state right after that was read.
        """
        return Position(
            self.epoch,
            self.super_batches + 1,
            self.num_steps + 1,
            self.counts.plus(counts),
            source,
        )

    def at_start_of(self, epoch: int, source: dict[str, Any] | None = None) -> "Position":
        """The position at the start of another epoch, where the source is in that state."""
        return Position(epoch, num_steps=self.num_steps, counts=self.counts, source=source)

    def to_state(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The state to save: plain values if the source's state is."""
        return {
            "version": _VERSION,
            "epoch": self.epoch,
            "super_batches": self.super_batches,
            "num_steps": self.num_steps,
            "counts": self.counts.to_dict(),
            "configuration": configuration,
            "source": self.source,
        }

    @classmethod
    def from_state(cls, state: Any, configuration: dict[str, Any]) -> "Position":
        """The position that ``to_state`` saved.

        Raises:
            ValueError: if the state is of another version, incomplete or of another configuration.
        """
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            found = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"a JestDataset's state must have version {_VERSION}, got {found}; "
                "load it with the release of jest-loader that saved it"
            )
        missing = cls().to_state({}).keys() - state.keys()
        if missing:
            raise ValueError(f"the state must be whole, but it lacks {', '.join(sorted(missing))}")
        saved = state["configuration"]
        for name in saved | configuration:
            if saved.get(name) != configuration.get(name):
                raise ValueError(
                    "a state must be loaded with the configuration that it was saved with, but "
                    f"{name} was {saved.get(name)} and is now {configuration.get(name)}; make the "
                    "dataset as it was, or start without the state"
                )
        if state["super_batches"] > 0 and state["source"] is None:
            raise ValueError(
                "the state must hold the source's state after "
                f"{state['super_batches']} super-batches, but has none; it was saved from a source "
                "that cannot resume, start without it"
            )
        return cls(
            state["epoch"],
            state["super_batches"],
            state["num_steps"],
            Counts(**state["counts"]),
            state["source"],
        )
