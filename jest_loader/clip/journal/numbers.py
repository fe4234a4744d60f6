"""The numbers of a record, for logs that take no nested values."""

from collections.abc import Mapping
from typing import Any

from jest_loader.clip.config.options import flat


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's numbers by name, as in ``counts/trained``."""
    return {k: v for k, v in flat(record, "/").items() if isinstance(v, int | float)}
