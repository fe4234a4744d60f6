"""A digest inside saved values, by which damage to them is found."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def with_digest(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state and, as ``digest``, the BLAKE2b of its values; plain values if the state's are."""
    return {**state, "digest": _digest(state)}


def check_digest(state: Mapping[str, Any], whose: str) -> None:
    """Raise ``ValueError`` unless the state is as ``with_digest`` returned it.

    JSON and ``torch.save`` keep it as it is; tuples may become lists.
    """
    if not has_its_digest(state):
        raise ValueError(
            f"{whose} state must be as it was saved, but its digest does not fit its values; load "
            "another saved state, or start without one"
        )


def has_its_digest(saved: Mapping[str, Any]) -> bool:
    """Whether ``with_digest`` returned these values."""
    try:
        values = {name: value for name, value in saved.items() if name != "digest"}
        return bool(saved["digest"] == _digest(values))
    except Exception:  # Values that cannot be compared, or that are nested without end.
        return False


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(_plain(values), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """The values that JSON can hold, which are equal after JSON or ``torch.save``."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, str | int | float):
        return value
    return type(value).__name__  # An object of the source's own.
