"""A reference that was run once, ahead of time: reads what it said, runs no model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch, take
from jest_loader.embeddings import Embeddings
from jest_loader.protocols import Embedder
from jest_loader.reference_cache.stored_rows import Found, SampleIndex, StoredRows, open_rows
from jest_loader.scoring.learnability import check_embedder
from jest_loader.skipped import listed, named, use

Missing = Literal["error", "skip"]
"""What to do for examples without a row in the cache: raise an error, or skip them."""


class CachedReference:
    """Looks up the reference's embeddings of each candidate by its sample id.

    Args:
        image: Floating [N, D]: an array, a memory map or a tensor.
        text: Floating [N, D].
        logit_scale: The reference's inverse temperature.
        logit_bias: The reference's logit bias; None for a softmax model.
        ids: Int64 [N], the sample ids of the rows; None for 0 to N - 1.
        missing: What to do for examples that have no row, or a row of NaN: ``"error"`` raises;
            ``"skip"`` gives them NaN, with the reason; an embedder, such as
            ``FrozenReference(model)``, is run on them.
        id_column: The column of the batch that holds sample ids, int64 [B].
        device: Where the embeddings of a super-batch are put, the learner's device.

    Raises:
        ValueError: if the arrays do not match, an id comes twice, or ``missing`` is something else.
    """

    def __init__(
        self,
        image: NDArray[Any] | Tensor,
        text: NDArray[Any] | Tensor,
        logit_scale: float,
        logit_bias: float | None = None,
        *,
        ids: NDArray[np.int64] | Tensor | None = None,
        missing: Missing | Embedder = "error",
        id_column: str = "sample_id",
        device: torch.device | str = "cpu",
    ) -> None:
        if len(image.shape) != 2 or tuple(image.shape) != tuple(text.shape):
            raise ValueError(
                "cached image and text embeddings must both have shape [samples, width], "
                f"got {tuple(image.shape)} and {tuple(text.shape)}"
            )
        columns = {"image": _array(image), "text": _array(text)}
        rows = StoredRows(columns, SampleIndex.of_rows(ids, len(image)), id_column)
        self._set(rows, logit_scale, logit_bias, missing, device)

    def _set(
        self,
        rows: StoredRows,
        logit_scale: float,
        logit_bias: float | None,
        missing: Missing | Embedder,
        device: torch.device | str,
    ) -> None:
        if missing not in ("error", "skip"):
            check_embedder("missing, where it is not 'error' or 'skip',", missing)
        self._rows = rows
        self.missing = missing
        self._device = torch.device(device)
        self.logit_scale, self.logit_bias = logit_scale, logit_bias

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        expect: Mapping[str, str] | None = None,
        missing: Missing | Embedder = "error",
        id_column: str = "sample_id",
        device: torch.device | str = "cpu",
    ) -> "CachedReference":
        """The cache that ``jest_loader.reference_cache.build`` wrote to ``path``, by memory map.

        Args:
            path: Its folder.
            expect: What it must have been built from, among ``data``, ``model``,
                ``preprocessing``, ``tokenizer`` and whatever else its builder named.
            missing: As for the class.
            id_column: As for the class.
            device: As for the class.

        Raises:
            ValueError: if there is no whole cache of embeddings at ``path``, or it was built from
                something else.
        """
        manifest, rows = open_rows(path, "embeddings", expect or {}, id_column)
        assert manifest.logit_scale is not None
        reference = cls.__new__(cls)
        reference._set(rows, manifest.logit_scale, manifest.logit_bias, missing, device)
        return reference

    def __len__(self) -> int:
        """Samples in the cache, those that are missing included."""
        return self._rows.index.num_rows

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch's samples, in the dtype they are stored in.

        Raises:
            ValueError: if the batch has no ids, or, with ``missing="error"``, a sample no row.
        """
        found = self._rows.look_up(batch)
        image, text = (_on(self._device, found.columns[side]) for side in ("image", "text"))
        embeddings = Embeddings(
            image, text, self.logit_scale, self.logit_bias, skipped=found.skipped
        )
        if not found.skipped or self.missing == "skip":
            return embeddings
        if self.missing == "error":
            raise ValueError(_no_rows(found, "an embedder of them, such as FrozenReference(model)"))
        return self._filled(embeddings, batch, found)

    def _filled(self, embeddings: Embeddings, batch: Batch, found: Found) -> Embeddings:
        """The embeddings, with those that are missing from the embedder for them."""
        assert not isinstance(self.missing, str)
        missing = list(found.skipped)
        live, rows, reasons = use(self.missing.embed, take(batch, torch.tensor(missing)))
        skipped = {missing[row]: reason for row, reason in reasons.items()}
        if live is None:  # They stay NaN.
            return replace(embeddings, skipped=skipped)
        _check_same_model(live, embeddings)
        embedded = [missing[row] for row in rows]
        skipped |= {embedded[row]: reason for row, reason in live.skipped.items()}
        index = torch.tensor(embedded, device=embeddings.image.device)
        image, text = (
            side.index_copy(0, index, fresh.to(side))
            for side, fresh in ((embeddings.image, live.image), (embeddings.text, live.text))
        )
        return replace(embeddings, image=image, text=text, skipped=skipped)


class CachedLosses:
    """Looks up one stored number for each candidate by its sample id, such as a reference's loss.

    Args:
        loss: Floating [N].
        ids: As for ``CachedReference``.
        missing: ``"error"``; ``"skip"``, which gives NaN; or a function ``missing(batch) ->
            Tensor [B]`` that is called with the samples concerned.
        id_column: As for ``CachedReference``.
        device: Where the values are put.

    Raises:
        ValueError: as ``CachedReference``.
    """

    def __init__(
        self,
        loss: NDArray[Any] | Tensor,
        *,
        ids: NDArray[np.int64] | Tensor | None = None,
        missing: Missing | Callable[[Batch], Tensor] = "error",
        id_column: str = "sample_id",
        device: torch.device | str = "cpu",
    ) -> None:
        if len(loss.shape) != 1:
            raise ValueError(f"cached losses must have shape [samples], got {tuple(loss.shape)}")
        columns = {"loss": _array(loss)}
        self._set(
            StoredRows(columns, SampleIndex.of_rows(ids, len(loss)), id_column), missing, device
        )

    def _set(
        self,
        rows: StoredRows,
        missing: Missing | Callable[[Batch], Tensor],
        device: torch.device | str,
    ) -> None:
        if missing not in ("error", "skip") and not callable(missing):
            raise ValueError(
                "missing must be 'error', 'skip' or a function that scores a batch, got "
                f"{missing!r}"
            )
        self._rows, self.missing, self._device = rows, missing, torch.device(device)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        expect: Mapping[str, str] | None = None,
        missing: Missing | Callable[[Batch], Tensor] = "error",
        id_column: str = "sample_id",
        device: torch.device | str = "cpu",
    ) -> "CachedLosses":
        """The cache that ``jest_loader.reference_cache.build`` wrote to ``path``, by memory map.

        Args:
            path: Its folder.
            expect: As for ``CachedReference.open``.
            missing: As for the class.
            id_column: As for the class.
            device: As for the class.

        Raises:
            ValueError: as ``CachedReference.open``.
        """
        _, rows = open_rows(path, "loss", expect or {}, id_column)
        scores = cls.__new__(cls)
        scores._set(rows, missing, device)
        return scores

    def __len__(self) -> int:
        """Samples in the cache, those that are missing included."""
        return self._rows.index.num_rows

    def values(self, batch: Batch) -> Tensor:
        """Float [B], NaN for samples without a value.

        Raises:
            ValueError: as ``CachedReference.embed``.
        """
        found = self._rows.look_up(batch)
        values = _on(self._device, found.columns["loss"])
        if not found.skipped or self.missing == "skip":
            return values
        if self.missing == "error":
            raise ValueError(_no_rows(found, "a function that computes them"))
        assert not isinstance(self.missing, str)
        rows = torch.tensor(list(found.skipped))
        live = self.missing(take(batch, rows)).detach()
        return values.index_copy(0, rows.to(values.device), live.to(values))


def _array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """The same in the host's memory; fp32 of bf16, which NumPy does not have."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _on(device: torch.device, values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


def _no_rows(found: Found, live: str) -> str:
    names = listed(named(found.skipped, {"sample_id": found.ids}))
    return (
        f"every sample must have values in the reference cache, but {len(found.skipped)} of this "
        f"batch have none ({names}); build the cache from this data set, or pass missing='skip' "
        f"to skip them, or {live}"
    )


def _check_same_model(live: Embeddings, cached: Embeddings) -> None:
    """Raise ``ValueError`` unless the embedder for what is missing can be the cache's model."""
    for name in ("logit_scale", "logit_bias"):
        fresh, stored = getattr(live, name), getattr(cached, name)
        if (fresh is None) != (stored is None) or (
            fresh is not None and not isclose(float(fresh), float(stored), rel_tol=1e-3)
        ):
            raise ValueError(
                f"the embedder for missing samples must be the cache's model, but its {name} is "
                f"{fresh if fresh is None else float(fresh)} and the cache's {stored}"
            )
    if live.image.shape[1] != cached.image.shape[1]:
        raise ValueError(
            "the embedder for missing samples must be the cache's model, but its embeddings have "
            f"width {live.image.shape[1]} and the cache's {cached.image.shape[1]}"
        )
