"""Containers of a batch: lists and tuples, and dicts, named tuples and dataclasses with names."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
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
    """A container of the kind of ``node`` around other parts.

    Raises:
        ValueError: if its type does not make one of them.
    """
    if is_list(node):
        return list_like(node, children.values())
    made = _made(node, partial(_fields_around, node, children))
    if (fields_of(made) or {}).keys() != children.keys():
        raise _not_made(node, "it lacks parts or has others")
    return made


def list_like(node: Sequence[Any], values: Iterable[Any]) -> Any:
    """A list or tuple of the type of ``node`` with other values.

    Raises:
        ValueError: if its type does not make one of them.
    """
    return _made(node, lambda: type(node)(values))  # type: ignore[call-arg]


def _fields_around(node: Any, children: dict[str | int, Any]) -> Any:
    if isinstance(node, defaultdict):
        return defaultdict(node.default_factory, children)
    if isinstance(node, Mapping):
        return children if type(node) is dict else type(node)(children)  # type: ignore[call-arg]
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{str(name): child for name, child in children.items()})
    return type(node)(*children.values())


def _made(node: Any, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise _not_made(node, str(error)) from error


def _not_made(node: Any, why: str) -> ValueError:
    kind = type(node)
    return ValueError(
        "a container in a batch must be one that its type makes again of its parts, but "
        f"{kind.__module__}.{kind.__qualname__} does not ({why}); make collate_fn return a dict, "
        "list or tuple"
    )
