"""The joined rows as batches, which the builder of a cache reads, and what it embeds them with."""

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from jest_loader.embeddings import Embeddings
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.published.joined import Joined
from jest_loader.reference_cache.published.published import PublishedEmbeddings
from jest_loader.scoring.embedding_checks import is_unit

_BATCH_ROWS = 4096


class Rows(TypedDict):
    """Published embeddings of some examples.

    Args:
        sample_id: Int64 [B].
        image: Float32 [B, width]; NaN where there are none.
        text: Float32 [B, width].
        reason: Why a row is NaN, a text for each; empty where it is not.
    """

    sample_id: Int64Array
    image: NDArray[np.float32]
    text: NDArray[np.float32]
    reason: list[str]


class JoinedRows:
    """A source of the joined examples, which starts anywhere.

    Args:
        published: The embeddings.
        joined: Which of them belong to which example.
        normalize: Whether rows are divided by their norm; otherwise they must have norm 1.
    """

    batch_size = _BATCH_ROWS

    def __init__(self, published: PublishedEmbeddings, joined: Joined, *, normalize: bool) -> None:
        self._published, self._joined, self._normalize = published, joined, normalize
        self._next = 0

    @property
    def num_examples(self) -> int:
        """Examples, with or without embeddings."""
        return len(self._joined.ids)

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def seek(self, batch: int) -> None:
        """Let the next pass start at that batch, from 0."""
        self._next = batch

    def __iter__(self) -> Iterator[Rows]:
        first, self._next = self._next, 0
        for start in range(first * self.batch_size, self.num_examples, self.batch_size):
            yield self.rows_at(np.arange(start, min(start + self.batch_size, self.num_examples)))
        self._published.close()

    def rows_at(self, places: Int64Array) -> Rows:
        """The examples at ``places``, int64 [n] ascending.

        Raises:
            ValueError: if rows cannot be read, or must be of norm 1 and are not.
        """
        ids, rows = self._joined.ids[places], self._joined.rows[places]
        has_row = rows >= 0
        sides = np.full((2, len(rows), self._published.width), np.nan, dtype=np.float32)
        sides[:, has_row] = self._published.take(rows[has_row])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            norms = np.linalg.norm(sides, axis=2)
        is_finite, is_zero = np.isfinite(norms).all(axis=0), (norms == 0).any(axis=0)
        usable = is_finite & ~is_zero
        if not self._normalize:
            self._check_norms(norms[:, usable], ids[usable])
        else:
            sides[:, usable] /= norms[:, usable, None]
        sides[:, ~usable] = np.nan
        reason = np.full(len(rows), "", dtype=object)
        reason[is_zero] = "its published embedding is zero"
        reason[~is_finite] = "its published embedding is not finite"
        reason[~has_row] = "no published embedding has its id"
        return {"sample_id": ids, "image": sides[0], "text": sides[1], "reason": reason.tolist()}

    def sample(self, most: int) -> Rows:
        """At most so many of the examples that have a row, evenly spaced."""
        found = self._joined.num_found
        size = min(most, found)
        return self.rows_at(np.arange(size) * found // size)

    def _check_norms(self, norms: NDArray[np.float32], ids: Int64Array) -> None:
        wrong = ~is_unit(torch.from_numpy(norms)).numpy()
        if wrong.any():
            side, row = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                "published embeddings must have norm 1, but those of "
                f"{('images', 'texts')[side]} here have {norms[side].min():.4g} to "
                f"{norms[side].max():.4g} (sample {ids[row]} has {norms[side, row]:.4g}); set "
                "normalize to divide them by it, if they were made for that"
            )


class PublishedReference:
    """Embeds the batches of ``JoinedRows``: their embeddings are there.

    Args:
        logit_scale: The model's inverse temperature.
        logit_bias: Its logit bias; None for a softmax model.
    """

    missing_is_known = True

    def __init__(self, logit_scale: float, logit_bias: float | None) -> None:
        self.logit_scale, self.logit_bias = logit_scale, logit_bias

    def embed(self, batch: Any) -> Embeddings:
        """See ``Embedder``."""
        image, text = (torch.from_numpy(batch[side]) for side in ("image", "text"))
        skipped = {row: reason for row, reason in enumerate(batch["reason"]) if reason}
        return Embeddings(image, text, self.logit_scale, self.logit_bias, skipped)
