"""Scorers and references that are another one from step to step."""

from typing import Any, Protocol, TypeVar, runtime_checkable

Part = TypeVar("Part")


@runtime_checkable
class TakesTurns(Protocol):
    """A scorer or reference that is several, one of which has its turn at each step."""

    def at_turn(self, key: int) -> Any:
        """The one for a step of that key, which is the same on all ranks."""
        ...


def at_turn(part: Part, key: int) -> Part:
    """What has its turn at a step of that key; what takes no turns is itself."""
    if not isinstance(part, TakesTurns):
        return part
    found: Part = part.at_turn(key)
    return found
