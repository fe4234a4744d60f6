"""Models that are wrapped for training: in DDP, in FSDP, or compiled."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The model to score with: without DDP, which would synchronise buffers at each forward.

    FSDP stays, since its hooks gather the weights, and so does a compiled module, unless it was
    compiled with DDP inside.
    """
    inner = without_compiler(model)
    return unwrapped(inner.module) if isinstance(inner, DistributedDataParallel) else model


def without_compiler(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was given, or the model itself."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP has sharded some weights, so that all ranks must run the model together."""
    kinds = (_fsdp("FSDPModule"), _fsdp("FullyShardedDataParallel"))
    return any(isinstance(module, kinds) for module in model.modules())


def prepare_method(model: nn.Module, name: str) -> None:
    """Let ``model.name(...)`` gather weights that FSDP has sharded, as ``model(...)`` does.

    Raises:
        ValueError: if the model has no such method, or is wrapped in FSDP1, which gathers weights
            in ``forward`` only.
    """
    inner = without_compiler(model)
    if isinstance(inner, _fsdp("FullyShardedDataParallel")):
        raise ValueError(
            f"FullyShardedDataParallel gathers weights in forward only, not in {name}; use "
            f"fully_shard(model), or pass {name}=lambda model, batch: model(batch) and let forward "
            "return Embeddings"
        )
    if not callable(getattr(inner, name, None)):
        raise ValueError(
            f"{type(inner).__name__} has no {name}(batch) method; pass {name}=function, where "
            "function(model, batch) returns Embeddings(image, text, logit_scale, logit_bias)"
        )
    # Registering sets an attribute of the instance; twice would gather twice.
    if isinstance(inner, _fsdp("FSDPModule")) and name not in vars(inner):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(inner, name)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Run the block in ``eval`` mode, without gradients and autocast, then restore all modes.

    Weights that FSDP2 gathered are freed, since they would be stale after the next optimizer step.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device_of(model).type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
        inner: Any = without_compiler(model)
        if isinstance(inner, _fsdp("FSDPModule")):
            inner.reshard()


def _fsdp(name: str) -> Any:
    """A class of FSDP; an empty tuple where FSDP was never imported, so no model is in it."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), name, ())
