"""Ranks: the processes that select one sub-batch together, each from its own candidates.

The candidates of all ranks are numbered as cards are dealt: row i of rank r among W is candidate
``i * W + r``. Sources deal their rows that way too, and so does PyTorch's ``DistributedSampler``;
so a candidate has the same number, and with it the same noise, whatever W is.

Only ``torch.distributed`` is used, under whatever launched the processes.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from jest_loader.ops.noise import Share
from jest_loader.ranks.roll_call import begin_pass, rank_error


@runtime_checkable
class Collective(Protocol):
    """How ranks talk. Every rank must call the same method at the same time."""

    @property
    def rank(self) -> int:
        """This rank's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def all_gather(self, value: Tensor) -> Tensor:
        """[size, ...]: the ``value`` [...] of each rank, which has one shape and dtype on all."""
        ...

    def all_to_all(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """What each rank had for this one.

        Args:
            parts: A uint8 vector for each rank, on one device, where what is found will be.
            sizes: Bytes that come from each rank.
        """
        ...


Group = dist.ProcessGroup | Collective
"""Some of the processes, or anything else that can talk."""


class Ranks:
    """The ranks of a group as this one sees them, and what it received from them.

    Args:
        collective: How they talk; None for one rank alone.
        joint: Whether they select together; otherwise each by itself, without a word to the others.
    """

    def __init__(self, collective: Collective | None = None, *, joint: bool = True) -> None:
        self._collective = _Alone() if collective is None else collective
        self.rank = self._collective.rank
        self.size = self._collective.size
        self.joint = self.size > 1 and joint
        self.bytes_received = 0

    def alone(self) -> "Ranks":
        """The same ranks, each selecting by itself."""
        return Ranks(self._collective, joint=False)

    @property
    def share(self) -> Share:
        """The numbers of this rank's candidates among those of all."""
        return Share(self.rank, self.size)

    def begin_pass(self) -> None:
        """Tell the other processes that this one begins a pass, and log who does not."""
        if isinstance(self._collective, _Processes):
            self._collective.begin_pass()

    def all_gather(self, value: Tensor) -> Tensor:
        """As ``Collective.all_gather``, on the device of ``value``."""
        found = self._collective.all_gather(value)
        self.bytes_received += (self.size - 1) * value.nbytes
        return found

    def all_gather_rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """[sum of counts, ...]: the rows [count, ...] of all ranks, rank by rank."""
        if min(counts) == max(counts):
            return self.all_gather(rows).flatten(0, 1)
        # Padded to the most, ranks with few rows would receive what one with many holds, each.
        own = rows.detach().flatten().contiguous().view(torch.uint8)
        row_bytes = rows.new_empty(rows.shape[1:]).nbytes
        sizes = [count * row_bytes for count in counts]
        found = torch.cat(self.all_to_all([own] * self.size, sizes))
        return found.view(rows.dtype).view(sum(counts), *rows.shape[1:])

    def all_to_all(
        self, parts: Sequence[Tensor], sizes: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Send ``parts[r]`` (uint8, any length) to each rank r; returns what each sent here.

        Args:
            parts: One for each rank, on one device.
            sizes: Bytes that come from each rank; None asks them.
        """
        if sizes is None:
            sent = self.all_gather(torch.tensor([part.numel() for part in parts]))
            sizes = sent[:, self.rank].tolist()
        found = self._collective.all_to_all(parts, sizes)
        self.bytes_received += sum(sizes) - sizes[self.rank]
        return found


def ranks_of(group: Group | None) -> Ranks:
    """The ranks of a group; None for torch.distributed's default group, or no other rank.

    Raises:
        ValueError: if this process is not in the group.
    """
    if isinstance(group, Collective) and not isinstance(group, dist.ProcessGroup):
        return Ranks(group)
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    if dist.get_rank(group) < 0:
        raise ValueError(
            "only a process of the group can select with it, but rank "
            f"{dist.get_rank()} is not in it; give the group that this rank is in"
        )
    return Ranks(_Processes(group))


def joint_bytes(
    sub_batch_size: int, num_chunks: int, num_ranks: int, bytes_per_example: int
) -> int:
    """What a rank receives while a sub-batch is selected with equal quotas, in bytes.

    The embeddings of all chunks but the last, from all ranks but itself.

    Args:
        sub_batch_size: Examples that all ranks choose together.
        num_chunks: Draws.
        num_ranks: Among which the examples divide evenly.
        bytes_per_example: Of the image and the text embedding of each model:
            ``2 * width * itemsize``, summed over models.
    """
    own = sub_batch_size // num_ranks
    draws = min(own, num_chunks)
    conditioned = own - own // draws  # The last chunk is one of the smaller ones.
    return (num_ranks - 1) * conditioned * bytes_per_example


class _Alone:
    rank, size = 0, 1

    def all_gather(self, value: Tensor) -> Tensor:
        return value[None]

    def all_to_all(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        return list(parts)


class _Processes:
    """The processes of a torch.distributed group; None for the default group."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def begin_pass(self) -> None:
        begin_pass(self._group)

    def all_gather(self, value: Tensor) -> Tensor:
        sent = value.detach().to(self._device(value)).contiguous()
        found = sent.new_empty(self.size, *sent.shape)
        self._call(dist.all_gather, list(found.unbind()), sent)
        return found.to(value.device)

    def all_to_all(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        given = torch.cat(list(parts))
        sent = given.to(self._device(given))
        found = sent.new_empty(sum(sizes))
        self._call(
            dist.all_to_all_single, found, sent, list(sizes), [part.numel() for part in parts]
        )
        return list(torch.split(found.to(given.device), list(sizes)))

    def _device(self, value: Tensor) -> torch.device:
        """Where a tensor must be for the group's backends, which each are for some devices."""
        config = dist.get_backend_config(self._group)  # As in "cpu:gloo,cuda:nccl".
        backends = dict(part.split(":") for part in config.split(","))
        if backends.get(value.device.type, "gloo") != "gloo":
            return value.device
        if "cpu" in backends:
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    def _call(self, collective: Any, *arguments: Any) -> None:
        try:
            collective(*arguments, group=self._group)
        except RuntimeError as error:  # the backends' own errors are RuntimeErrors, and no others
            raise rank_error(self._group, error) from error
