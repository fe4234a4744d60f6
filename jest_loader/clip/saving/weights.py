"""A model's description, and the weights that it must fit."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jest_loader.checks import shown


def check_sizes(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` if a model of these sizes cannot have so few weights.

    A description may ask for any number of blocks, which cost time and memory even without weights.

    Args:
        sizes: A model's description; numbers of blocks are called depth or layers.
        weights: By name.
    """
    most = sum(tensor.numel() for tensor in weights.values())
    for name, value in sizes.items():
        if isinstance(value, Mapping):
            check_sizes(value, weights)
        for number in value if isinstance(value, list | tuple) else [value]:
            limit = len(weights) if "depth" in name or "layers" in name else most
            if isinstance(number, int) and number > limit:
                raise ValueError(
                    f"a model of {len(weights)} weights with {most} numbers cannot have "
                    f"{shown(name)} = {number}; name another checkpoint"
                )
