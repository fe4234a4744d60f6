"""Where a source stands, and the state that says so as plain JSON values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jest_loader.adapters.blocks.plan import BatchPlan
from jest_loader.checks import whole

_VERSION = 1


class SourcePosition(NamedTuple):
    """Where a source stands.

    Args:
        epoch: Which epoch, from 0.
        batches: How many of its batches were delivered.
    """

    epoch: int
    batches: int


def to_state(position: SourcePosition, plan: BatchPlan) -> dict[str, Any]:
    """The state of a source with this plan at this position."""
    return {"version": _VERSION, **position._asdict(), "fingerprint": plan.identity()}


def from_state(state: Mapping[str, Any], plan: BatchPlan) -> SourcePosition:
    """The position that a state describes.

    Raises:
        ValueError: if the state belongs to another data set, another order or another version.
    """
    missing = {"version", *SourcePosition._fields, "fingerprint"} - state.keys()
    if missing:
        raise ValueError(
            f"a state must be one that state_dict returned, got one without {sorted(missing)}; "
            "load the state of this source, not of the loader around it"
        )
    if state["version"] != _VERSION:
        raise ValueError(
            f"the state's version must be {_VERSION}, got {state['version']}; "
            "load it with the release that saved it"
        )
    for name, value in plan.identity().items():
        saved = state["fingerprint"].get(name)
        if saved != value:
            raise ValueError(
                f"the state must come from a source with the same {name}, got {saved!r} in the "
                f"state and {value!r} here; build the source as it was, or start without the state"
            )
    return SourcePosition(
        whole("the state's epoch", state["epoch"], 0),
        whole("the state's batches", state["batches"], 0, plan.num_batches),
    )
