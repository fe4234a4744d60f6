"""Which pictures a run has trained on, for whoever takes its model as a reference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.clip.models.inputs import CONTENT
from jest_loader.ragged import Int64Array
from jest_loader.ranks.ranks import Ranks
from jest_loader.seen import MOST_KEYS, SeenRows

_HELD = 1 << 16
_NO_LIMIT = 2**63 - 1


class TrainedRows:
    """The keys of all pictures trained on, or of a random share where they are too many.

    Each rank adds its own; ``gather`` lets all ranks know all.

    Args:
        most: Keys that are kept.
    """

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._rows = _record([])  # Alike on all ranks.
        self._own = self._rows  # Of this rank, since the ranks gathered.
        self._held: list[Int64Array] = []  # Not joined to those yet, for that sorts all of them.
        self._num_held = 0

    def add(self, keys: Tensor) -> None:
        """Add the rows of a step, by their keys (int64 [B])."""
        self._held.append(keys.numpy().copy())
        self._num_held += len(keys)
        if self._num_held > max(_HELD, len(self._own.keys) // 4):
            self._settle()

    def gather(self, ranks: Ranks) -> None:
        """Let all ranks, which call this at once, know what each has added."""
        self._settle()
        own = self._own
        limit = _NO_LIMIT if own.most_known is None else own.most_known
        told = ranks.all_gather(torch.tensor([len(own.keys), limit]))
        keys = ranks.all_gather_rows(torch.from_numpy(own.keys), told[:, 0].tolist())
        least = int(told[:, 1].min())
        everyones = _record(keys.numpy(), None if least == _NO_LIMIT else least)
        self._rows = self._rows.joined(everyones, most=self._most)
        self._own = _record([], self._rows.most_known)

    def state_dict(self) -> dict[str, Any]:
        """What all ranks know."""
        return self._rows.to_state()

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: if it cannot be one.
        """
        self._rows = SeenRows.from_state(state_dict, CONTENT)
        self._own = _record([], self._rows.most_known)
        self._held, self._num_held = [], 0

    def _settle(self) -> None:
        held = _record(np.concatenate([np.empty(0, np.int64), *self._held]))
        self._own = self._own.joined(held, most=self._most)
        self._held, self._num_held = [], 0


def _record(keys: Any, most_known: int | None = None) -> SeenRows:
    return SeenRows(keys, CONTENT, most_known)
