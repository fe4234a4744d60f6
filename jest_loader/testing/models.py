"""The models of a scorer: which they are, and that it leaves them as they were."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from jest_loader.batch import Batch
from jest_loader.testing.equality import batches_equal


def models_of(value: object) -> list[nn.Module]:
    """The models in an object's attributes, those of its attributes, and closures."""
    return list(_models_of(value, set()))


def _models_of(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    if id(value) in seen or isinstance(value, type | ModuleType | Tensor):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
        return
    for part in _parts_of(value):
        yield from _models_of(part, seen)


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or ()]
    return list(getattr(value, "__dict__", {}).values())


@contextmanager
def untouched(
    models: Sequence[nn.Module], batch: Batch, what: str, *, learns: bool = False
) -> Iterator[None]:
    """Check that a block leaves models, a batch and torch's generator as they are.

    Models that are trained are put into a mixture of modes, and their weights get gradients.

    Args:
        models: Those that the block may run.
        batch: What it is given.
        what: The method that is called, for messages.
        learns: Whether it may change weights and gradients, and draw at random, as dropout does.

    Raises:
        AssertionError: naming what has changed, and what to do.
    """
    names = {f"{type(m).__name__}.{name}": one for m in models for name, one in m.named_modules()}
    before = {name: module.training for name, module in names.items()}
    added = [weight for model in models for weight in model.parameters() if weight.grad is None]
    for model in models:
        _mix(model, added)
    modes = {name: module.training for name, module in names.items()}
    tensors, kept = _tensors(models), copy.deepcopy(batch)
    random = torch.get_rng_state()
    try:
        yield
        for name, module in names.items():
            assert module.training == modes[name], (
                f"{what} left {name} in {'training' if module.training else 'eval'} mode; put the "
                "mode of each submodule back, as LiveLearner does"
            )
        for name, tensor in {} if learns else _tensors(models).items():
            assert torch.equal(tensor, tensors[name]), (
                f"{what} changed {name}; score in eval mode and under torch.no_grad()"
            )
    finally:
        for name, module in names.items():
            module.training = before[name]
        for weight in added:
            weight.grad = None
    assert batches_equal(batch, kept), f"{what} must not change its batch; work on a copy"
    assert learns or torch.equal(torch.get_rng_state(), random), (
        f"{what} drew from torch's generator, so the training around it would go on otherwise; use "
        "a generator of your own"
    )


@contextmanager
def altered(models: Sequence[nn.Module]) -> Iterator[None]:
    """The models with other weights where they are trained, as after an optimizer's step."""
    weights = [w for model in models for w in model.parameters() if w.requires_grad]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.add_(torch.linspace(-1, 1, weight.numel()).view_as(weight) / (number + 1))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def _mix(model: nn.Module, without_gradient: Sequence[nn.Parameter]) -> None:
    """Training mode but for the last submodule, and gradients where there are none."""
    if not any(weight.requires_grad for weight in model.parameters()):
        return  # A frozen one stays in its mode.
    *_, last = model.train().modules()
    if last is not model:
        last.eval()
    missing = set(map(id, without_gradient))
    for weight in model.parameters():
        if weight.requires_grad and id(weight) in missing:
            weight.grad = torch.ones_like(weight)


def _tensors(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Copies of weights, buffers and gradients by name."""
    found = {}
    for number, model in enumerate(models):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            whose = f"{name} of {type(model).__name__} ({number})"
            found[whose] = tensor.detach().clone()
            if tensor.grad is not None:
                found[f"the gradient of {whose}"] = tensor.grad.clone()
    return found
