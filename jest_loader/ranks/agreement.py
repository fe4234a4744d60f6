"""Ranks stay in step: they go on together, end together, and what fails on one ends all."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from jest_loader.checks import first_few, shown
from jest_loader.ranks.ranks import Ranks
from jest_loader.ranks.roll_call import RankError

_FINE, _FAILED = 0, 1


@dataclass
class Agreed:
    """Numbers that each rank tells the others.

    Args:
        numbers: This rank's.
        everyones: All ranks' numbers, rank by rank, once they have agreed.
    """

    numbers: tuple[int, ...]
    everyones: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def totals(self) -> list[int]:
        """Each number summed over all ranks, once they have agreed."""
        return [sum(one) for one in zip(*self.everyones, strict=True)]


class Agreement:
    """What the ranks tell each other about how it goes: a few integers at a time.

    Args:
        ranks: Who must agree.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._over = False  # Somewhere it failed and all know, so nobody is listening.

    @contextmanager
    def step(self, doing: str, num_numbers: int = 1) -> Iterator[Agreed]:
        """Something that every rank does; when it ends well on one, it has on all.

        Args:
            doing: What, in the words that follow "while".
            num_numbers: How many numbers each rank tells; zeros until the block sets them.

        Raises:
            RankError: if it failed on another rank, or another does something else.
        """
        nothing = (0,) * num_numbers
        agreed = Agreed(nothing)
        if self.ranks.size == 1:
            yield agreed
            agreed.everyones = [agreed.numbers]
            return
        try:
            yield agreed
        except RankError:
            self._over = True
            raise
        except Exception:
            if not self._over:
                self._exchange(doing, _FAILED, nothing)
            raise
        told = self._exchange(doing, _FINE, agreed.numbers)
        failed = [rank for rank, (status, *_) in enumerate(told) if status == _FAILED]
        if failed:
            raise RankError(
                f"rank {failed[0]} of {self.ranks.size} failed while {doing}, which ends rank "
                f"{self.ranks.rank} too; the error on rank {failed[0]} says why"
            )
        agreed.everyones = [tuple(numbers) for _, *numbers in told]

    def check_same(self, what: dict[str, Any]) -> None:
        """Raise ``ValueError``, with what differs, unless ``what`` is equal on all ranks.

        Args:
            what: Plain values by name, which may be nested.
        """
        text = json.dumps(what, sort_keys=True, default=str)
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
        told = [number for _, number in self._exchange("beginning a pass", _FINE, (digest,))]
        others = [rank for rank, number in enumerate(told) if number != told[0]]
        if others:
            texts = self._all_texts(json.dumps(what, default=str))
            found = _differences("", json.loads(texts[0]), json.loads(texts[others[0]]))
            raise ValueError(
                f"all ranks must start alike, but rank {others[0]} does not start as rank 0 does: "
                f"{first_few(found, most=3)}; give all the same data, arguments and state"
            )

    def _all_texts(self, text: str) -> list[str]:
        given = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        counts = self.ranks.all_gather(torch.tensor(len(given))).tolist()
        found = self.ranks.all_gather_rows(given, counts)
        return [part.numpy().tobytes().decode() for part in torch.split(found, counts)]

    def _exchange(self, doing: str, status: int, numbers: tuple[int, ...]) -> list[list[int]]:
        """The status of each rank, and after it its numbers.

        Raises:
            RankError: if a rank is not reached, or is not ``doing`` this.
        """
        self._over = self._over or status == _FAILED
        here = _number_of(doing)
        try:
            told = self.ranks.all_gather(torch.tensor([2 * here + status, *numbers])).tolist()
        except RankError:
            self._over = True
            if status == _FAILED:
                return []  # It has an error of its own to raise.
            raise
        found = [[first % 2, *others] for first, *others in told]
        elsewhere = [rank for rank, (first, *_) in enumerate(told) if first // 2 != here]
        has_failed = any(failed for failed, *_ in found)
        self._over = has_failed or bool(elsewhere)
        if elsewhere and not has_failed:
            raise RankError(
                f"all ranks must iterate in step, but rank {elsewhere[0]} does something else than "
                f"rank {self.ranks.rank}, which is {doing}; leave the loop over a JestDataset on "
                "all ranks at once"
            )
        return found


def _number_of(doing: str) -> int:
    """A number for what a rank does, the same on all that do it."""
    return int.from_bytes(hashlib.blake2b(doing.encode(), digest_size=4).digest())


def _differences(name: str, first: Any, other: Any) -> list[str]:
    """What nested values have otherwise than the first, as text."""
    if isinstance(first, dict) and isinstance(other, dict):
        within = f"{name}." if name else ""
        return [
            text
            for key in first | other
            for text in _differences(f"{within}{key}", first.get(key), other.get(key))
        ]
    if first == other:
        return []
    return [f"{shown(name)} is {shown(other, most=80)} in place of {shown(first, most=80)}"]
