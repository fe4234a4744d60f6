"""Whether a source can go on where it was when its state was saved."""

from dataclasses import replace
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from jest_loader.loader.data_loader import sampler_of
from jest_loader.loader.position import Position
from jest_loader.protocols import EpochSource, Source, Stateful

_WITHOUT_STATE = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_SAMPLER = "sampler=torchdata.stateful_dataloader.sampler.RandomSampler(data, generator=g)"
_REMEDY = f"use {_SAMPLER}, within that module's BatchSampler where you need a batch_sampler"


def check_stateful(source: Source) -> Stateful:
    """The source, known to save and restore its state.

    Raises:
        ValueError: if it cannot, or would go on in another order.
    """
    if not isinstance(source, Stateful):
        lacking = "load_state_dict" if hasattr(source, "state_dict") else "state_dict"
        raise ValueError(
            f"the state of a {type(source).__name__} can be neither saved nor restored, since it "
            f"has no {lacking}; use torchdata's StatefulDataLoader in place of DataLoader, itself "
            "rather than what a framework made of it, or a source from jest_loader.adapters"
        )
    if getattr(source, "restart_on_stop_iteration", False):
        raise ValueError(
            "a source must be resumed where it was, but from the state at an epoch's end a "
            f"torchdata.nodes.{type(source).__name__} reads that epoch again; use "
            "Loader(node, restart_on_stop_iteration=False)"
        )
    if isinstance(source, DataLoader):
        _check_order_is_saved(source)
    return source


def state_of(source: Source) -> dict[str, Any] | None:
    """The state of a source; None if it has none, or a ``state_dict`` that its loader lacks."""
    if not isinstance(source, Stateful):
        return None
    try:
        return source.state_dict()
    except (AttributeError, NotImplementedError):  # As of loaders that Accelerate has prepared.
        return None


def saved_position(
    position: Position, source: Source, *, is_fresh: bool, is_running: bool
) -> Position:
    """The position as it is to be saved.

    Args:
        position: Of the dataset.
        source: Its source, which may have an order of its own.
        is_fresh: Whether nothing was read from it yet.
        is_running: Whether a pass is under way.

    Raises:
        ValueError: if the source cannot save its state.
    """
    check_stateful(source)
    if is_fresh:
        position = replace(position, source=state_of(source))
    lacks_state = position.source is None and (
        is_fresh or position.super_batches > 0 or (not is_running and state_of(source) is None)
    )
    if lacks_state:
        raise ValueError(
            f"a {type(source).__name__} has a state_dict, but it fails; pass the loader itself "
            "rather than what accelerate's prepare() returned, or mend its state_dict"
        )
    return position


def left_for(position: Position, epoch: int, source: Source) -> Position:
    """The position at the start of another epoch, the rest of this one left out.

    A source without epochs goes on with its next pass.
    """
    if isinstance(source, EpochSource):
        return position.at_start_of(epoch)
    return position.leaving_for(epoch)


def _check_order_is_saved(loader: "DataLoader[Any]") -> None:
    """Raise ``ValueError`` for the samplers of which a StatefulDataLoader saves no order.

    It draws their order anew and skips what was delivered, so from the second epoch on, rows are
    lost and others repeated. A sampler with ``set_epoch`` draws the same order again.
    """
    sampler = sampler_of(loader)
    generator = getattr(sampler, "generator", None)
    if isinstance(sampler, EpochSource):
        return
    name = f"{type(sampler).__module__}.{type(sampler).__qualname__}"
    if isinstance(sampler, _WITHOUT_STATE):
        fault = f"does not save that of a {name}; {_REMEDY}"
    elif type(loader.batch_sampler) is BatchSampler and generator is not None:
        fault = f"does not save that of a {name} within torch's own BatchSampler; {_REMEDY}"
    elif generator is not None and generator is loader.generator:
        fault = (
            "draws from the generator of its sampler between epochs; leave generator= out, or give "
            f"it to the sampler alone: {_SAMPLER}"
        )
    else:
        return
    raise ValueError(
        "a source must be resumed in the order in which it was read, but StatefulDataLoader "
        f"{fault}"
    )
