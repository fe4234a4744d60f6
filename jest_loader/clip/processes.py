"""The processes that train together: their group, their devices and their shares of a batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jest_loader.checks import shown
from jest_loader.environment import launched_as, number_in, text_in
from jest_loader.ranks.ranks import Ranks, ranks_of
from jest_loader.ranks.roll_call import RankError


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[Ranks]:
    """The ranks that torchrun started, or this process alone.

    A default group that exists already is used and not destroyed.

    Args:
        device: Where this process trains. Tensors on a GPU travel by NCCL, others by gloo.
        timeout_s: How long ranks wait for each other.

    Raises:
        ValueError: if the environment does not say who the ranks are.
        RankError: if they do not find each other.
    """
    started = not dist.is_initialized() and launched_as()[1] > 1
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if started:
        _find_each_other("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout_s)
    try:
        yield ranks_of(None)
    finally:
        if started:
            dist.destroy_process_group()


def _find_each_other(backend: str, timeout_s: float) -> None:
    rank, size = launched_as()
    place = f"{shown(text_in('MASTER_ADDR'))}:{number_in('MASTER_PORT', 1, 65535)}"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except Exception as error:  # Each backend and store raises errors of its own.
        raise RankError(
            f"all {size} processes must meet at MASTER_ADDR:MASTER_PORT = {place}, but rank {rank} "
            f"could not ({shown(str(error).partition(chr(10))[0])}); see that all were started, "
            "with the same address, which is free on the first machine"
        ) from error


def choose_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` takes a GPU if there is one.

    Each process of torchrun gets its own GPU, unless the name has a number.

    Raises:
        ValueError: if it cannot be used here, or there are fewer GPUs than processes.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return _own_gpu()
    if name == "auto":
        return torch.device("cpu")
    try:
        torch.empty(0, device=name)
    except Exception as error:  # Each kind of device that is not there raises errors of its own.
        reason = shown(str(error).partition("\n")[0])
        raise ValueError(f"device {name!r} cannot be used here: {reason}; use auto") from error
    return torch.device(name)


def per_rank(name: str, size: int) -> int:
    """One rank's share of a size over all ranks.

    Args:
        name: The option's name, for the message.
        size: The option's value.

    Raises:
        ValueError: if the ranks do not divide it.
    """
    num_ranks = ranks_of(None).size
    if size % num_ranks != 0:
        raise ValueError(
            f"{name} counts all ranks together and must be a multiple of their number, got "
            f"{size} and {num_ranks} ranks; use {-(-size // num_ranks) * num_ranks}, or another "
            "number of processes"
        )
    return size // num_ranks


def in_ddp(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model to call in training: in DDP, which averages gradients, if there are more ranks."""
    return model if ranks.size == 1 else DistributedDataParallel(model)


def _own_gpu() -> torch.device:
    """This process's GPU, by LOCAL_RANK, torchrun's number of a process on its machine.

    Raises:
        ValueError: if that is no number, or there are more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    number, num_gpus = number_in("LOCAL_RANK", 0), torch.cuda.device_count()
    if number >= num_gpus:
        raise ValueError(
            "each process of a machine needs a GPU of its own, but there are "
            f"{num_gpus} for the one with LOCAL_RANK {number}; use --nproc-per-node {num_gpus}, or "
            "device cpu"
        )
    return torch.device("cuda", number)
