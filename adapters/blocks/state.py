"""Where a source stands, and the state that says so as plain JSON values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jest_loader.adapters.blocks.plan import BatchPlan
from jest_loader.checks import differ, first_few, shown, whole
from jest_loader.state_digest import check_digest, with_digest

_VERSION = 2
_MOST_EPOCH = 2**63 - 1


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
    state = {"version": _VERSION, **position._asdict(), "fingerprint": plan.identity()}
    return with_digest(state)


def from_state(state: Mapping[str, Any], plan: BatchPlan) -> SourcePosition:
    """The position that a state describes.

    Raises:
        ValueError: if the state is damaged, or belongs to another data set, order or version.
    """
    found: object = state
    if not isinstance(found, Mapping):
        raise ValueError(
            "a state must be a dict that state_dict returned, got a "
            f"{type(found).__name__}; load the source's state"
        )
    names = {"version", *SourcePosition._fields, "fingerprint", "digest"}
    version = state.get("version", _VERSION)
    if type(version) is not int or version != _VERSION:
        raise ValueError(
            f"the state's version must be {_VERSION}, got {shown(version)}; "
            "load it with the release that saved it"
        )
    if names != state.keys():
        raise ValueError(
            f"a state must have {first_few(sorted(names))}, got "
            f"{shown(sorted(map(str, state)))}; load the state of this source, not of the loader "
            "around it"
        )
    _check_fingerprint(state["fingerprint"], plan)
    position = SourcePosition(
        whole("the state's epoch", state["epoch"], 0, _MOST_EPOCH),
        whole("the state's batches", state["batches"], 0, plan.num_batches),
    )
    check_digest(state, "the source's")
    return position


def _check_fingerprint(saved: Any, plan: BatchPlan) -> None:
    if not isinstance(saved, Mapping):
        raise ValueError(
            "the state's fingerprint must be a dict of what the source was made with, got "
            f"{shown(saved)}; load another saved state, or start without one"
        )
    for name, value in plan.identity().items():
        if differ(saved.get(name), value):
            raise ValueError(
                f"the state must come from a source with the same {name}, got "
                f"{shown(repr(saved.get(name)))} in the state and {value!r} here; build the source "
                "as it was, or start without the state"
            )
