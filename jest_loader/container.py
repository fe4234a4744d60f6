"""Containers of a batch: lists and tuples, and dicts, named tuples and dataclasses with names."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any


def is_list(node: Any) -> bool:
    """Whether a node is a list or tuple whose parts have no names."""
    return isinstance(node, list | tuple) and not hasattr(node, "_fields")


def fields_of(node: Any) -> dict[str | int, Any] | None:
    """The parts of a node that has names for them, or None."""
    if isinstance(node, Mapping):
        return dict(node)
    if is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    return None


def rebuilt(node: Any, children: dict[str | int, Any]) -> Any:
    """A container of the kind of ``node`` around other parts."""
    if isinstance(node, Mapping):
        if isinstance(node, defaultdict):
            return defaultdict(node.default_factory, children)
        return children if type(node) is dict else type(node)(children)  # type: ignore[call-arg]
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{str(name): child for name, child in children.items()})
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*children.values())
    return type(node)(children.values())
