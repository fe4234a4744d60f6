"""Models that are wrapped for training: in DDP, in FSDP, or compiled."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
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
    """Where the model's first parameter is, or its first buffer if it has no parameters."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def weight_dtypes(model: nn.Module) -> set[torch.dtype]:
    """The floating-point dtypes of the weights as they are computed with: FSDP may cast them."""
    gathered: set[torch.dtype | None] = set()
    for module in model.modules():
        inner: Any = module
        if isinstance(module, _fsdp("FSDPModule")):
            gathered.add(inner._get_fsdp_state()._mp_policy.param_dtype)  # No public name has it.
        elif isinstance(module, _fsdp("FullyShardedDataParallel")):
            gathered.add(inner.mixed_precision.param_dtype)
    own = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return {dtype for dtype in gathered if dtype is not None} or own


@contextmanager
def scoring(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Run the block in ``eval`` mode, without gradients, and restore all modes afterwards.

    Autocast around the block has no effect on it. Weights that FSDP2 gathered are freed, since they
    would be stale after the next optimizer step.

    Args:
        model: The model.
        dtype: Of autocast within the block; None turns it off.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    # Weights cast here have no gradient: in the cache of an autocast around the training loop, the
    # next training step would find them in place of its own.
    autocast = torch.autocast(
        device_of(model).type, dtype, enabled=dtype is not None, cache_enabled=False
    )
    try:
        with torch.no_grad(), autocast:
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
