"""Weights that a file holds, and the model that they must fit."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from jest_loader.checks import first_few, shown


def check_weights(model: nn.Module, weights: Any) -> None:
    """Raise ``ValueError`` unless ``weights`` are tensors by the names and shapes of the model's.

    The model's own may be on the meta device.
    """
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in weights.values()
    ):
        raise ValueError("a checkpoint's weights must be tensors by name; name another")
    own = model.state_dict()
    different = {
        "lacks": sorted(own.keys() - weights.keys()),
        "has in excess": sorted(map(shown, weights.keys() - own.keys())),
        "has in another shape": [
            name for name in own if name in weights and own[name].shape != weights[name].shape
        ],
    }
    found = [f"{how} {first_few(names, most=3)}" for how, names in different.items() if names]
    if found:
        raise ValueError(
            "a checkpoint must have the weights of the model that it describes, but this one "
            f"{' and '.join(found)}; name another"
        )


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
