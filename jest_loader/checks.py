"""Checks of arguments that several public edges make."""

from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as a plain int, which a state can hold.

    Raises:
        ValueError: if it is no whole number, or not in [least, most].
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ValueError(f"{name} must be a whole number {bounds}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number, which text and flags are not."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
