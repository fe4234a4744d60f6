"""Which examples a model was trained on: of those its loss says what it remembers."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch, num_examples
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array, RaggedBytes

Marks = NDArray[np.int8]
"""Int8 [B]: SEEN, UNSEEN or UNKNOWN for each example of a batch."""

SEEN, UNSEEN, UNKNOWN = 1, 0, -1

MOST_KEYS = 1 << 24
"""Keys that a record of contents holds at most, 128 MiB of them."""

SeenFunction = Callable[[Batch], Any]
"""Says of each example of a batch whether a model was trained on it: bool [B], or marks."""


@runtime_checkable
class KnowsSeen(Protocol):
    """A reference that may know which examples it was trained on."""

    @property
    def has_seen(self) -> SeenFunction | None:
        """Says so of a batch's examples; None where nothing is known."""
        ...


@dataclass(frozen=True, eq=False)
class SeenRows:
    """The examples that a model was trained on, by a 64-bit key of each; called with a batch.

    Args:
        keys: Int64 [n], in any order: sample ids, or what ``content_keys`` returned.
        column: The batch's column of such keys.
        most_known: The largest key of which the record says whether it was seen; None for all. A
            record of too many keys holds the smallest ones, which of hashes is a random share.

    Raises:
        ValueError: if the keys are no vector of whole numbers.
    """

    keys: Int64Array
    column: str = "sample_id"
    most_known: int | None = None

    def __post_init__(self) -> None:
        given: Any = self.keys
        found = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
            raise ValueError(
                "the keys of seen rows must be whole numbers of shape [n], such as sample ids, got "
                f"{found.dtype} of {found.shape}"
            )
        object.__setattr__(self, "keys", np.unique(found.astype(np.int64, copy=False)))

    def __call__(self, batch: Batch) -> Marks:
        """Marks of the batch's examples.

        Raises:
            ValueError: if the batch has no such column of whole numbers.
        """
        try:
            given = batch[self.column]
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                "seen rows are found by key, but the batch has no column "
                f"{self.column!r}; add it, or name another as column"
            ) from error
        keys = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if keys.dtype.kind not in "iu" or keys.ndim != 1:
            raise ValueError(
                f"keys of seen rows must be one whole number per example, but column "
                f"{self.column!r} is {keys.dtype} of {keys.shape}"
            )
        return self.marks(keys.astype(np.int64, copy=False))

    def marks(self, keys: Int64Array) -> Marks:
        """Int8 [n]: whether each key (int64 [n]) is among those seen."""
        if not len(self.keys):
            found = np.zeros(len(keys), np.int8)
        else:
            place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
            found = (self.keys[place] == keys).astype(np.int8)
        if self.most_known is not None:
            found[keys > self.most_known] = UNKNOWN
        return found

    def fingerprint(self) -> str:
        """How many keys there are, and a digest of them."""
        digest = hashlib.blake2b(self.keys.astype("<i8").tobytes(), digest_size=8).hexdigest()
        share = "" if self.most_known is None else f" up to {self.most_known}"
        return f"{len(self.keys)} keys{share} {digest}"

    def joined(self, others: "SeenRows", *, most: int = MOST_KEYS) -> "SeenRows":
        """These and others; of too many keys the ``most`` smallest."""
        limits = [one.most_known for one in (self, others) if one.most_known is not None]
        limit = min(limits) if limits else None
        keys = np.unique(np.concatenate([self.keys, others.keys]))
        if limit is not None:
            keys = keys[: np.searchsorted(keys, limit, side="right")]
        if len(keys) > most:
            keys = keys[:most]
            limit = int(keys[-1])
        return SeenRows(keys, self.column, limit)

    def to_state(self) -> dict[str, Any]:
        """The record as a tensor and a number, for a file of torch's."""
        return {"keys": torch.from_numpy(self.keys.copy()), "most_known": self.most_known}

    @classmethod
    def from_state(cls, state: Any, column: str) -> "SeenRows":
        """The record that ``to_state`` returned, of keys that batches have in a column.

        Raises:
            ValueError: if it cannot be one.
        """
        keys = state.get("keys") if isinstance(state, Mapping) else None
        limit = state.get("most_known") if isinstance(state, Mapping) else None
        if (
            not isinstance(keys, Tensor)
            or keys.ndim != 1
            or len(keys) > MOST_KEYS
            or not (limit is None or type(limit) is int)
        ):
            raise ValueError(
                f"a record of seen rows must have at most {MOST_KEYS} keys and a limit or None, "
                f"got {shown(repr(state), most=80)}"
            )
        return cls(keys.numpy(), column, limit)


def content_keys(column: Any) -> Int64Array:
    """Int64 [n]: a key of each row's content, 64 bits of its BLAKE2b.

    Args:
        column: Byte strings or texts, or an array or tensor [n, ...] in the host's memory, of which
            the values in order count, but not shape and dtype.
    """
    if isinstance(column, Tensor):
        column = column.numpy()
    if isinstance(column, np.ndarray):
        column = np.ascontiguousarray(column)
        views = [row.reshape(-1).view(np.uint8).data for row in column]
    elif isinstance(column, RaggedBytes):
        views = column.views()
    else:
        views = [row.encode() if isinstance(row, str) else row for row in column]
    digests = b"".join(hashlib.blake2b(view, digest_size=8).digest() for view in views)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def marks_of(seen: SeenFunction, batch: Batch) -> Marks:
    """What the function says of the batch.

    Raises:
        ValueError: if it does not say one thing of each example.
    """
    size = num_examples(batch)
    given: Any = seen(batch)
    found = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if found.shape != (size,) or found.dtype.kind not in "bi" or not is_marks(found):
        raise ValueError(
            f"what says which examples were seen must return bool of shape ({size},), one for each "
            f"example, got {found.dtype} of {found.shape}"
        )
    return found.astype(np.int8, copy=False)


def is_marks(values: NDArray[Any]) -> bool:
    """Whether all values are those of marks."""
    return bool(((values >= UNKNOWN) & (values <= SEEN)).all())


def check_seen(seen: object) -> None:
    """Raise ``ValueError`` unless it is a function that can say what was seen, or None."""
    if seen is not None and not callable(seen):
        raise ValueError(
            "seen must be a function(batch) that returns bool [B], or None, got "
            f"{shown(repr(seen))}; of sample ids SeenRows(ids) is one"
        )
