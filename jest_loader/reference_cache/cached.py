"""A reference that was run once, ahead of time: looks up its embeddings, runs no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch, take
from jest_loader.checks import check_keywords
from jest_loader.embeddings import Embeddings
from jest_loader.protocols import Embedder
from jest_loader.reference_cache.identity import recorded_batch_size
from jest_loader.reference_cache.mapped_rows import MappedRows
from jest_loader.reference_cache.missing import check_same_weights, filled
from jest_loader.reference_cache.sample_index import SampleIndex
from jest_loader.reference_cache.stored_rows import Found, StoredRows, open_cache
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.learnability import check_embedder
from jest_loader.scoring.sized import SizedEmbedder, TrainedAtSize
from jest_loader.seen import (
    UNKNOWN,
    UNSEEN,
    KnowsSeen,
    Marks,
    SeenFunction,
    is_marks,
    marks_of,
)
from jest_loader.skipped import listed, named

Live = TypeVar("Live")
"""What computes values that the cache lacks: an embedder, or a function of a batch."""

Values = NDArray[Any] | Tensor | MappedRows
"""Stored values, a row for each example."""

Ids = NDArray[np.int64] | Tensor | SampleIndex | None
"""The sample ids of rows; None for 0, 1, 2, ..."""


class LookUp(TypedDict, Generic[Live], total=False):
    """How a batch's examples are looked up, as keyword arguments of all that looks them up.

    Args:
        missing: What to do for examples that have no row, or a row of NaN. ``"error"``, the
            default, raises; ``"skip"`` gives them NaN, with the reason; an embedder, such as
            ``FrozenReference(model)``, or for losses a function, is called with them.
        id_column: The column of the batch that holds sample ids, int64 [B]; ``"sample_id"`` by
            default.
        device: Where the values of a super-batch are put, the learner's device; the CPU by default.
    """

    missing: Literal["error", "skip"] | Live
    id_column: str
    device: torch.device | str


class Cached(Generic[Live]):
    """Stored values, and what to do for examples that have none."""

    def __init__(
        self,
        columns: Mapping[str, Values],
        ids: Ids,
        seen: Values | None,
        **options: Unpack[LookUp[Live]],
    ) -> None:
        check_keywords(options, LookUp)
        self.missing: Literal["error", "skip"] | Live = options.get("missing", "error")
        self._device = torch.device(options.get("device", "cpu"))
        arrays = {name: _array(values) for name, values in columns.items()}
        index = SampleIndex.of_rows(ids, len(next(iter(arrays.values()))))
        self._rows = StoredRows(arrays, index, options.get("id_column", "sample_id"))
        self._seen = None if seen is None else _marks(seen, index.num_rows)

    def __len__(self) -> int:
        """Examples in the cache, with or without values."""
        return self._rows.index.num_rows

    @property
    def has_seen(self) -> SeenFunction | None:
        """Says of a batch's examples whether the reference was trained on them; None if unknown."""
        return None if self._seen is None else self._marks_of

    def _marks_of(self, batch: Batch) -> Marks:
        """Int8 [B], as stored; of examples without a row what the live reference knows of them."""
        assert self._seen is not None, "it is known"
        rows = self._rows.rows_of(batch)
        marks: Marks = self._seen[rows.clip(min=0)]
        absent = np.flatnonzero(rows < 0)
        if len(absent):
            live = self.missing.has_seen if isinstance(self.missing, KnowsSeen) else None
            unknown = UNSEEN if isinstance(self.missing, str) else UNKNOWN  # Those are skipped.
            some = take(batch, torch.from_numpy(absent))
            marks[absent] = unknown if live is None else marks_of(live, some)
        return marks

    def _look_up(self, batch: Batch, remedy: str) -> Found:
        found = self._rows.look_up(batch)
        if found.skipped and self.missing == "error":
            names = listed(named(found.skipped, {"sample_id": found.ids}))
            raise ValueError(
                "every example must have values in the reference cache, but "
                f"{len(found.skipped)} of this batch have none ({names}); build the cache from "
                f"this data set, or pass missing='skip' to skip them, or {remedy}"
            )
        return found

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)


class CachedReference(Cached[Embedder], SizedEmbedder):
    """Looks up the reference's embeddings of each example by its sample id.

    Args:
        image: Floating [N, D]: an array, a memory map or a tensor.
        text: Floating [N, D].
        logit_scale: The reference's inverse temperature.
        logit_bias: The reference's logit bias; None for a softmax model.
        ids: Int64 [N], the sample ids of the rows; None for 0 to N - 1.
        seen: Bool [N], whether the reference was trained on them; None where it is not known.
        trained_batch_size: How many examples, over all ranks, were each other's negatives when the
            reference was trained with the sigmoid loss. ``JestDataset`` then has the bias adapted
            to its sub-batches. None leaves the bias as it is.
        calibration: In its place, the scale and bias that ``calibrate`` found for a batch size.
        options: ``missing``, ``id_column`` and ``device``, by keyword; ``LookUp`` describes them.

    Raises:
        ValueError: if the arrays do not match, an id comes twice, or ``missing`` is something else.
        TypeError: if a keyword is none of ``LookUp``.
    """

    def __init__(
        self,
        image: Values,
        text: Values,
        logit_scale: float,
        logit_bias: float | None = None,
        *,
        ids: Ids = None,
        seen: Values | None = None,
        trained_batch_size: int | None = None,
        calibration: Calibration | None = None,
        **options: Unpack[LookUp[Embedder]],
    ) -> None:
        if len(image.shape) != 2 or tuple(image.shape) != tuple(text.shape):
            raise ValueError(
                "cached image and text embeddings must both have shape [examples, width], "
                f"got {tuple(image.shape)} and {tuple(text.shape)}"
            )
        super().__init__({"image": image, "text": text}, ids, seen, **options)
        if self.missing not in ("error", "skip"):
            check_embedder("missing, where it is not 'error' or 'skip',", self.missing)
        self.logit_scale, self.logit_bias = logit_scale, logit_bias
        self.set_size(trained_batch_size, calibration)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        expect: Mapping[str, str] | None = None,
        trained_batch_size: int | None = None,
        calibration: Calibration | None = None,
        **options: Unpack[LookUp[Embedder]],
    ) -> "CachedReference":
        """The cache that ``jest_loader.reference_cache.build`` wrote to ``path``, by memory map.

        Args:
            path: Its folder.
            expect: What it must have been built from, among ``data``, ``model``,
                ``preprocessing``, ``tokenizer`` and whatever else its builder named.
            trained_batch_size: As for the class; None takes what the cache records, or what the
                embedder for missing examples knows.
            calibration: As for the class.
            options: ``missing``, ``id_column`` and ``device``; ``LookUp`` describes them.

        Raises:
            ValueError: if there is no whole cache of embeddings at ``path``, it was built from
                something else, or ``missing`` runs a model with other weights.
        """
        manifest, columns, samples = open_cache(path, "embeddings", expect)
        assert manifest.logit_scale is not None
        check_same_weights(path, manifest.identity.get("model", ""), options.get("missing"))
        if trained_batch_size is None and calibration is None:
            trained_batch_size = recorded_batch_size(manifest.identity)
            live: object = options.get("missing")
            if trained_batch_size is None and isinstance(live, TrainedAtSize):
                trained_batch_size = live.trained_batch_size
        return cls(
            columns["image"],
            columns["text"],
            manifest.logit_scale,
            manifest.logit_bias,
            ids=samples,
            seen=columns.get("seen"),
            trained_batch_size=trained_batch_size,
            calibration=calibration,
            **options,
        )

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch's examples, in the dtype that they are stored in.

        Raises:
            ValueError: if the batch has no ids, or, with ``missing="error"``, an example no row.
        """
        found = self._look_up(batch, "an embedder of them, such as FrozenReference(model)")
        image, text = (self._on_device(found.columns[side]) for side in ("image", "text"))
        embeddings = Embeddings(image, text, self.logit_scale, self.logit_bias, found.skipped)
        if found.skipped and not isinstance(self.missing, str):
            embeddings = filled(embeddings, batch, self.missing)
        return self.adapted(embeddings)


def _array(values: Values) -> NDArray[Any] | MappedRows:
    """The same in the host's memory; fp32 of bf16, which NumPy does not have."""
    if isinstance(values, MappedRows):
        return values
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _marks(seen: Values, num_rows: int) -> NDArray[Any] | MappedRows:
    if isinstance(seen, MappedRows):
        return seen
    found = np.asarray(seen.cpu() if isinstance(seen, Tensor) else seen)
    if found.shape != (num_rows,) or found.dtype.kind not in "bi" or not is_marks(found):
        raise ValueError(
            f"seen must be bool of shape ({num_rows},), one for each row, got {found.dtype} of "
            f"{found.shape}"
        )
    return found.astype(np.int8)
