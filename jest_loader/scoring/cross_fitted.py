"""References that were each trained without a fold of the data, and score in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings
from jest_loader.ops.noise import fold
from jest_loader.protocols import Embedder
from jest_loader.scoring.learnability import check_embedder
from jest_loader.scoring.sized import SizeAdapting, TrainedAtSize
from jest_loader.seen import UNSEEN, KnowsSeen, Marks, SeenFunction, marks_of

_PURPOSE = 0x70B5  # Turns are drawn from a key of their own.


@dataclass(frozen=True)
class CrossFitted:
    """Several references, of which one scores each super-batch, by turns that are drawn.

    ``JestDataset`` leaves out the candidates that the one whose turn it is was trained on.

    Args:
        references: At least two, of one loss, which know what they were trained on: two models that
            were each trained on one half of the curated data, or their caches.

    Raises:
        ValueError: if there are fewer, or one cannot embed or knows nothing of its training.
    """

    references: Sequence[Embedder]

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", tuple(self.references))
        if len(self.references) < 2:
            raise ValueError(
                "cross-fitting needs at least two references, each trained without what another "
                f"was trained on, got {len(self.references)}"
            )
        for number, reference in enumerate(self.references):
            check_embedder(f"reference {number} of CrossFitted", reference)
            if not isinstance(reference, KnowsSeen) or reference.has_seen is None:
                raise ValueError(
                    "cross-fitted references must know what they were trained on, but reference "
                    f"{number}, a {type(reference).__name__}, does not; say it as seen= of "
                    "FrozenReference or of build"
                )

    def at_turn(self, key: int) -> Embedder:
        """The reference whose turn a step of that key is."""
        return self.references[fold(key, _PURPOSE) % len(self.references)]

    def embed(self, batch: Batch) -> Embeddings:
        """Nothing: there is no one model.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "cross-fitted references embed by turns, of which a JestDataset tells them; call "
            "at_turn(key).embed(batch) for one"
        )

    @property
    def has_seen(self) -> SeenFunction:
        """Says which of a batch's examples all of the references were trained on."""
        return self._seen_by_all

    def _seen_by_all(self, batch: Batch) -> Marks:
        found = [
            marks_of(one.has_seen, batch)
            for one in self.references
            if isinstance(one, KnowsSeen) and one.has_seen is not None
        ]
        by_all: Marks = np.minimum.reduce(found)
        by_all[np.any([marks == UNSEEN for marks in found], axis=0)] = UNSEEN
        return by_all

    def at_sub_batch_size(self, size: int) -> "CrossFitted":
        """The same with each reference's bias for sub-batches of ``size``."""
        references = [
            one.at_sub_batch_size(size) if isinstance(one, SizeAdapting) else one
            for one in self.references
        ]
        return replace(self, references=references)

    @property
    def trained_batch_size(self) -> int | None:
        """That of the first, if all know theirs."""
        sizes = [
            one.trained_batch_size if isinstance(one, TrainedAtSize) else None
            for one in self.references
        ]
        return None if None in sizes else sizes[0]
