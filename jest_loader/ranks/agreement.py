"""Ranks stay in step: they go on together, end together, and what fails on one ends all."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from jest_loader.ranks.ranks import RankError, Ranks

_FINE, _FAILED = 0, 1


@dataclass
class Tally:
    """A number of each rank.

    Args:
        number: This rank's.
        everyones: Of all ranks, rank by rank, once they have agreed.
    """

    number: int = 0
    everyones: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Of all ranks, once they have agreed."""
        return sum(self.everyones)


class Agreement:
    """What the ranks tell each other about how it goes: two integers at a time.

    Args:
        ranks: Who must agree.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._over = False  # Somewhere it failed and all know, so nobody is listening.

    @contextmanager
    def step(self, doing: str) -> Iterator[Tally]:
        """Something that every rank does; when it ends well on one, it has on all.

        Args:
            doing: What, in the words that follow "while".

        Raises:
            RankError: if it failed on another rank.
        """
        tally = Tally()
        if self.ranks.size == 1:
            yield tally
            tally.everyones = [tally.number]
            return
        try:
            yield tally
        except RankError:
            self._over = True
            raise
        except Exception:
            if not self._over:
                self._told(_FAILED, 0)
            raise
        told = self._told(_FINE, tally.number)
        failed = [rank for rank, (status, _) in enumerate(told) if status == _FAILED]
        if failed:
            raise RankError(
                f"rank {failed[0]} of {self.ranks.size} failed while {doing}, which ends rank "
                f"{self.ranks.rank} too; the error on rank {failed[0]} says why"
            )
        tally.everyones = [number for _, number in told]

    def check_same(self, what: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless ``what``, plain values, is equal on all ranks."""
        text = json.dumps(what, sort_keys=True, default=str)
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
        told = [number for _, number in self._told(_FINE, digest)]
        others = [rank for rank, number in enumerate(told) if number != told[0]]
        if others:
            raise ValueError(
                f"all ranks must start alike, but rank {others[0]} does not start as rank 0 does "
                f"(rank {self.ranks.rank}: {text}); give all the same data, arguments and state"
            )

    def _told(self, status: int, number: int) -> list[tuple[int, int]]:
        """The status and number of each rank."""
        self._over = self._over or status == _FAILED
        try:
            told = self.ranks.all_gather(torch.tensor([status, number]))
        except RankError:
            self._over = True
            if status == _FAILED:
                return []  # It has an error of its own to raise.
            raise
        found = [(int(status), int(number)) for status, number in told.tolist()]
        self._over = any(status == _FAILED for status, _ in found)
        return found
