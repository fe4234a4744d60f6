"""Ids of any kind as 16 bytes each, so that a hundred million of them fit into memory."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.checks import shown
from jest_loader.ragged import Int64Array

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Keys:
    """A key of each row: the number itself, or a BLAKE2b digest of a text.

    Args:
        kind: ``"whole numbers"`` or ``"text"``.
        high: Uint64 [rows].
        low: Uint64 [rows]; 0 of numbers.
        first: The first id, for messages.
    """

    kind: str
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    first: str

    @classmethod
    def of(cls, columns: Iterable[Any], where: str) -> "Keys":
        """The keys of ids that come a batch at a time.

        Args:
            columns: Whole numbers, text or bytes, one for each row.
            where: Whose ids they are, for messages.

        Raises:
            ValueError: if there are none, they are anything else, or of several kinds.
        """
        kinds: set[str] = set()
        pairs: list[NDArray[np.uint64]] = []
        first = ""
        for column in columns:
            kind, pair, one = _keys_of(column, where)
            if len(pair):
                first = first if pairs else shown(one, most=80)
                kinds.add(kind)
                pairs.append(pair)
        if len(kinds) != 1:
            what = "of one kind, but some are text and some numbers" if kinds else "there, got none"
            raise ValueError(f"ids must be {what}; see the ids of {where}")
        joined = np.concatenate(pairs)
        high, low = np.ascontiguousarray(joined[:, 0]), np.ascontiguousarray(joined[:, 1])
        return cls(kinds.pop(), high, low, first)

    def __len__(self) -> int:
        return len(self.high)

    def first_rows(self) -> Int64Array:
        """The first row of each different id, in the order of the keys; int64 [different ids]."""
        order = np.lexsort((self.low, self.high))  # Stable: of equal ids the first row is first.
        high, low = self.high[order], self.low[order]
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        found: Int64Array = order[is_new]
        return found

    def rows_of(self, wanted: "Keys") -> Int64Array:
        """The row of each wanted id, the first of several, -1 where there is none; int64 [wanted].

        Raises:
            ValueError: if one's ids are numbers and the other's are text.
        """
        if self.kind != wanted.kind:
            raise ValueError(
                f"ids to join by must be of one kind, but those of the data are {wanted.kind} "
                f"(first {wanted.first}) and those of the embeddings {self.kind} (first "
                f"{self.first}); name another column on one side"
            )
        order = self.first_rows()
        high = self.high[order]
        ends = np.flatnonzero(np.append(high[1:] != high[:-1], True))
        found = np.full(len(wanted), -1, dtype=np.int64)
        place = np.searchsorted(high, wanted.high)
        for _ in range(int(np.diff(ends, prepend=-1).max())):  # 1, unless halves of digests meet.
            row = order[place.clip(max=len(order) - 1)]
            fits = (self.high[row] == wanted.high) & (self.low[row] == wanted.low)
            found[fits] = row[fits]
            place += 1
        return found


def _keys_of(column: Any, where: str) -> tuple[str, NDArray[np.uint64], object]:
    """Kind, uint64 [rows, 2] and the first id of a batch of ids."""
    values = column.cpu().numpy() if isinstance(column, Tensor) else column
    if isinstance(values, np.ndarray):
        if values.ndim == 1 and values.dtype.kind in "iu":
            low = np.zeros(len(values), dtype=np.uint64)
            first = values[0] if len(values) else ""
            return "whole numbers", np.stack([values.astype(np.uint64), low], axis=1), first
        if values.ndim == 1 and values.dtype.kind in "USO":
            values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        has = (
            f"{values.dtype} of {values.shape}" if isinstance(values, np.ndarray) else type(values)
        )
        raise ValueError(
            f"ids must be whole numbers or text, one for each row, got {shown(has)} in {where}; "
            "name another column"
        )
    return "text", _digests(values, where), values[0] if len(values) else ""


def _digests(values: Sequence[Any], where: str) -> NDArray[np.uint64]:
    blake2b, digests = hashlib.blake2b, []
    for value in values:
        if isinstance(value, str):
            content = value.encode("utf-8", "surrogatepass")
        elif isinstance(value, bytes) and value:
            content = value
        else:
            content = b""
        if not content:
            raise ValueError(
                f"each row must have an id of text or bytes, got {shown(repr(value))} in {where}; "
                "name another column"
            )
        digests.append(blake2b(content, digest_size=_DIGEST_BYTES).digest())
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
