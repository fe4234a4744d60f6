"""What a reference says of a batch, checked, as the arrays that a cache keeps."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch, num_examples, take
from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import detached
from jest_loader.protocols import Embedder
from jest_loader.reference_cache.format import Kind
from jest_loader.scoring.learnability import check_embedder
from jest_loader.skipped import SkipRowsError

_NORM_TOLERANCE = 0.05

Columns = dict[str, NDArray[Any]]


class Logit(NamedTuple):
    """What must be the same for all embeddings of a cache."""

    width: int
    logit_scale: float
    logit_bias: float | None


class Measure(Protocol):
    """Runs a reference. ``start`` may leave work to a device, ``finish`` waits for it."""

    kind: Kind

    @property
    def logit(self) -> Logit | None:
        """What must stay the same; None before it is known, and for losses."""
        ...

    def expect(self, logit: Logit | None) -> None:
        """Let only what matches ``logit`` come."""
        ...

    def start(self, batch: Batch) -> Any:
        """What the reference says of the batch, in whatever form."""
        ...

    def finish(self, started: Any, ids: NDArray[np.int64]) -> Columns:
        """The values as they are stored, NaN where there are none.

        Raises:
            ValueError: if they are not as they must be.
        """
        ...


def measure_of(reference: object) -> "EmbeddingMeasure | LossMeasure":
    """How to run ``reference``: an embedder, or a function from a batch to losses.

    Raises:
        ValueError: if it is neither.
    """
    if callable(reference) and not isinstance(reference, Embedder | torch.nn.Module):
        return LossMeasure(reference)
    check_embedder("reference", reference)
    assert isinstance(reference, Embedder)
    return EmbeddingMeasure(reference)


class EmbeddingMeasure:
    """Stores embeddings as float16.

    Args:
        embedder: The reference.
    """

    kind: Kind = "embeddings"

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.logit: Logit | None = None

    def expect(self, logit: Logit | None) -> None:
        """See ``Measure``."""
        if logit is not None and self.logit is not None:
            check_same_logit(self.logit, logit)
        self.logit = logit or self.logit

    def start(self, batch: Batch) -> "tuple[Embeddings | None, list[int], int]":
        """See ``Measure``."""
        found, good = _usable(self._embedder.embed, batch)
        return (None if found is None else detached(found)), good, num_examples(batch)

    def finish(
        self, started: "tuple[Embeddings | None, list[int], int]", ids: NDArray[np.int64]
    ) -> Columns:
        """See ``Measure``."""
        found, good, size = started
        if found is None:
            if self.logit is None:
                raise ValueError(
                    "the reference must be able to use some samples of the first batch, but of "
                    f"samples {ids.min()} to {ids.max()} it can use none; check the data's columns"
                )
            empty = np.full((size, self.logit.width), np.nan, np.float16)
            return {"image": empty, "text": empty}
        self._check_same(found)
        sides = {"image": found.image, "text": found.text}
        absent = [_not_there(side, values, ids[good]) for side, values in sides.items()]
        missing = torch.from_numpy(absent[0] | absent[1])
        columns = {}
        for side, values in sides.items():
            rows = values.half().cpu()
            if missing.any():
                rows = rows.masked_fill(missing[:, None], torch.nan)
            columns[side] = _spread(rows.numpy(), good, size)
        return columns

    def _check_same(self, found: Embeddings) -> None:
        bias = None if found.logit_bias is None else float(found.logit_bias)
        logit = Logit(found.image.shape[1], float(found.logit_scale), bias)
        if not (math.isfinite(logit.logit_scale) and logit.logit_scale > 0):
            raise ValueError(
                f"the reference's logit_scale must be positive, got {logit.logit_scale}"
            )
        if bias is not None and not math.isfinite(bias):
            raise ValueError(f"the reference's logit_bias must be finite, got {bias}")
        self.expect(logit)


class LossMeasure:
    """Stores one float32 per example.

    Args:
        loss: ``loss(batch) -> Tensor [B]``.
    """

    kind: Kind = "loss"
    logit: Logit | None = None

    def __init__(self, loss: Callable[[Batch], Tensor]) -> None:
        self._loss = loss

    def expect(self, logit: Logit | None) -> None:
        """See ``Measure``."""

    def start(self, batch: Batch) -> tuple[Tensor | None, list[int], int]:
        """See ``Measure``."""
        size = num_examples(batch)
        with torch.no_grad():
            found, good = _usable(self._loss, batch)
        if found is not None and (
            not isinstance(found, Tensor)
            or tuple(found.shape) != (len(good),)
            or not found.is_floating_point()
        ):
            has = (
                f"{found.dtype} of {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise ValueError(
                f"a loss function must return a floating tensor of shape ({len(good)},), one "
                f"number per example, got {has}; use reduction='none'"
            )
        return found, good, size

    def finish(
        self, started: tuple[Tensor | None, list[int], int], ids: NDArray[np.int64]
    ) -> Columns:
        """See ``Measure``."""
        found, good, size = started
        values = np.empty(0, np.float32) if found is None else found.detach().float().cpu().numpy()
        if np.isinf(values).any():
            first = ids[good][np.isinf(values)][0]
            raise ValueError(
                f"losses must be finite, or NaN where there is none, got an infinite one for "
                f"sample {first}; check the reference model"
            )
        return {"loss": _spread(values.astype(np.float32), good, size)}


def check_same_logit(before: Logit, now: Logit) -> None:
    """Raise ``ValueError`` unless both are of one model."""
    for name, was, found in zip(Logit._fields, before, now, strict=True):
        if was != found:
            raise ValueError(
                f"a cache must have one {name} throughout, but the reference's was {was} and is "
                f"now {found}; freeze it, or delete the unfinished cache to start over"
            )


def _usable(function: Callable[[Batch], Any], batch: Batch) -> tuple[Any, list[int]]:
    """``function`` of the rows that it can use, and which these are; None where there is none."""
    rows = list(range(num_examples(batch)))
    try:
        return function(batch), rows
    except SkipRowsError as error:
        good = [row for row in rows if row not in error.reasons]
        if not good:
            return None, []
        return function(take(batch, torch.tensor(good))), good


def _not_there(side: str, values: Tensor, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Bool [rows]: which rows are NaN, once the others are known to be of unit norm."""
    if len(values) != len(ids):
        raise ValueError(
            f"the reference must give one {side} embedding per example, got {len(values)} for "
            f"{len(ids)}"
        )
    norms = torch.linalg.vector_norm(values.float(), dim=1)
    wrong = ~((norms - 1).abs() <= _NORM_TOLERANCE)
    absent = torch.isnan(values).all(dim=1) if wrong.any() else torch.zeros_like(wrong)
    wrong &= ~absent
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{side} embeddings must be finite and of unit norm, but that of sample {ids[row]} has "
            f"norm {float(norms[row]):.4g}; normalize them in the reference's embed"
        )
    found: NDArray[np.bool_] = absent.cpu().numpy()
    return found


def _spread(values: NDArray[Any], rows: list[int], size: int) -> NDArray[Any]:
    """The values as ``rows`` of ``size``, the others NaN."""
    if len(rows) == size:
        return values
    found = np.full((size, *values.shape[1:]), np.nan, values.dtype)
    found[rows] = values
    return found
