"""Saved weights and optimizers, compared with those that are to go on from them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from jest_loader.checks import first_few, is_number, shown

# What optimizers keep of a weight in the weight's own shape, and of that what is a square.
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq"}
_OF_ITS_SHAPE = {"exp_avg", "momentum_buffer", *_SQUARES}
_OF_ADAM = {"step", "exp_avg", "exp_avg_sq"}


def check_weights(model: nn.Module, weights: Any, whose: str = "a checkpoint") -> None:
    """Raise ``ValueError`` unless ``weights`` are tensors by the names and shapes of the model's.

    Floating ones may be of another width. Numbers must be finite, but for infinite ones in buffers,
    where masks have them. The model's own may be on the meta device.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(f"{whose} must have its weights by name; name another")
    state = model.state_dict()
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    extra = state.keys() - own.keys()
    given = {name: value for name, value in weights.items() if name not in extra}
    if not all(isinstance(value, Tensor) for value in given.values()):
        raise ValueError(f"{whose} must have tensors as its weights; name another")
    different = {
        "lacks": sorted(own.keys() - given.keys()),
        "has in excess": sorted(map(shown, given.keys() - own.keys())),
        "has in another shape": [
            name for name in own if name in given and own[name].shape != given[name].shape
        ],
        "has in another kind of numbers": [
            name for name in own if name in given and not _is_alike(given[name], own[name])
        ],
    }
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if not any(different.values()):
        different["has numbers that are not finite in"] = [
            name for name in own if not _is_sound(given[name], infinite=name not in parameters)
        ]
    found = [f"{how} {first_few(names, most=3)}" for how, names in different.items() if names]
    if found:
        raise ValueError(
            f"{whose} must have the weights of the model that it describes, but this one "
            f"{' and '.join(found)}; name another"
        )


def check_optimizer(
    optimizer: Optimizer, state: Any, whose: str = "a checkpoint", *, most_steps: int | None = None
) -> None:
    """Raise ``ValueError`` unless ``optimizer`` could have saved this state.

    Args:
        optimizer: That of the same weights, which is to load the state.
        state: What an optimizer's ``state_dict`` returned.
        whose: What holds the state, for the message.
        most_steps: Steps that it can have done; None knows none.
    """
    try:
        fault = next(_faults(optimizer, state, most_steps), None)
    except Exception as error:  # The state may be anything.
        fault = f"is none ({type(error).__name__}: {shown(error)})"
    if fault is not None:
        raise ValueError(
            f"{whose} must have the optimizer's state for the same weights, but its own "
            f"{fault}; name another, or start without one"
        )


def _faults(optimizer: Optimizer, state: Any, most_steps: int | None) -> Iterator[str]:
    own = optimizer.state_dict()["param_groups"]
    if [list(group["params"]) for group in state["param_groups"]] != [g["params"] for g in own]:
        yield "is of other groups of weights"
    for mine, group in zip(own, state["param_groups"], strict=True):
        if "lr" in mine and not _is_rate(group["lr"]):
            yield f"has the learning rate {shown(group['lr'])}"
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if most_steps and not state["state"]:
        yield f"has nothing of its weights after {most_steps} steps"
    needed = _OF_ADAM if isinstance(optimizer, Adam | AdamW) else set()
    for number, kept in state["state"].items():
        where = f"of weight {shown(number)} of {len(weights)}"
        if type(number) is not int or not 0 <= number < len(weights):
            yield f"has something {where}"
        if lacking := needed - kept.keys():
            yield f"lacks {first_few(sorted(lacking))} {where}"
        for name, value in kept.items():
            if not _can_be(name, value, weights[number], most_steps):
                yield f"has {shown(name)} {where} that cannot be: {_described(value)}"


def _can_be(name: str, value: Any, weight: Tensor, most_steps: int | None) -> bool:
    if name == "step":
        return 0 <= float(value) <= (math.inf if most_steps is None else most_steps)
    if value is None:  # As SGD's momentum before the first step.
        return True
    if name in _OF_ITS_SHAPE:
        fits = value.shape == weight.shape
        if not fits or value.is_floating_point() != weight.is_floating_point():
            return False
        value = value.to(weight.dtype)  # As it is loaded.
    if not isinstance(value, Tensor):
        return not is_number(value) or math.isfinite(value)
    is_negative = name in _SQUARES and not value.is_complex() and bool((value < 0).any())
    return _is_sound(value, infinite=False) and not is_negative


def _is_rate(value: Any) -> bool:
    return (is_number(value) or isinstance(value, Tensor)) and 0 <= float(value) < math.inf


def _is_alike(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be loaded in place of another, up to rounding."""
    are_floating = value.is_floating_point() and own.is_floating_point()
    widens = are_floating and value.dtype.itemsize > 1  # Of 8 bits, torch knows no finite ones.
    return value.layout == own.layout and (value.dtype == own.dtype or widens)


def _is_sound(value: Tensor, *, infinite: bool) -> bool:
    return not bool(value.isnan().any() if infinite else not value.isfinite().all())


def _described(value: Any) -> str:
    if isinstance(value, Tensor) and value.ndim:
        return f"{value.dtype} of shape {list(value.shape)}"
    return shown(value)
