"""What a reference says of a batch, checked, as the arrays that a cache keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch, num_examples
from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import detached
from jest_loader.protocols import Embedder
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.format import Kind
from jest_loader.scoring.embedding_checks import check_logit, is_unit, norms_of
from jest_loader.scoring.learnability import check_embedder
from jest_loader.scoring.precision import because
from jest_loader.skipped import Used, use

Arrays = dict[str, NDArray[Any]]
Output = TypeVar("Output")


class Logit(NamedTuple):
    """The width, scale and bias of embeddings, which must be the same throughout a cache."""

    width: int
    logit_scale: float
    logit_bias: float | None


class Measure(Protocol[Output]):
    """Runs a reference. ``start`` may leave work to a device, ``finish`` waits for it."""

    kind: Kind
    missing_is_known: bool
    """Whether it was counted before what is missing, so that none of a chunk may be there."""

    @property
    def if_nan(self) -> str:
        """The reason for a row that is NaN without one."""
        ...

    @property
    def logit(self) -> Logit | None:
        """The width, scale and bias; None before the first batch, and for losses."""
        ...

    def expect(self, logit: Logit | None) -> None:
        """Refuse embeddings that do not match ``logit`` from now on."""
        ...

    def start(self, batch: Batch) -> Used[Output]:
        """The reference's output for the batch, and why it skips rows."""
        ...

    def finish(self, used: Used[Output], ids: Int64Array) -> Arrays:
        """The values as they are stored, a row for each of ``ids``; NaN where there are none.

        Raises:
            ValueError: if they cannot be stored, as embeddings that are not of unit norm.
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

    @property
    def if_nan(self) -> str:
        """See ``Measure``."""
        return because("it is NaN", self._embedder)

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.missing_is_known: bool = getattr(embedder, "missing_is_known", False)
        self.logit: Logit | None = None

    def expect(self, logit: Logit | None) -> None:
        """See ``Measure``."""
        if logit is not None and self.logit is not None:
            check_same_logit(self.logit, logit)
        self.logit = logit or self.logit

    def start(self, batch: Batch) -> Used[Embeddings]:
        """See ``Measure``."""
        return use(self._embed, batch)

    def finish(self, used: Used[Embeddings], ids: Int64Array) -> Arrays:
        """See ``Measure``."""
        if used.output is None:
            if self.logit is None:
                raise ValueError(
                    "the reference must be able to use some examples of the first batch, but of "
                    f"samples {ids.min()} to {ids.max()} it can use none; check the data's columns"
                )
            empty = np.full((len(ids), self.logit.width), np.nan, np.float16)
            return {"image": empty, "text": empty}
        self._check_same(used.output)
        missing = _missing(used.output, ids[used.rows])
        columns = {}
        for name, values in (("image", used.output.image), ("text", used.output.text)):
            rows = values.half().cpu().numpy()
            if missing.any():
                rows = np.where(missing[:, None], np.float16(np.nan), rows)
            columns[name] = _spread(rows, used.rows, len(ids))
        return columns

    def _embed(self, batch: Batch) -> Embeddings:
        found = detached(self._embedder.embed(batch))
        if len(found.image) != (size := num_examples(batch)):
            raise ValueError(
                f"the reference must give one embedding per example, got {len(found.image)} for "
                f"{size}"
            )
        return found

    def _check_same(self, found: Embeddings) -> None:
        bias = None if found.logit_bias is None else float(found.logit_bias)
        logit = Logit(found.image.shape[1], float(found.logit_scale), bias)
        check_logit("reference", logit.logit_scale, bias or 0.0)
        self.expect(logit)


class LossMeasure:
    """Stores one float32 per example.

    Args:
        loss: ``loss(batch) -> Tensor [B]``.
    """

    kind: Kind = "loss"
    missing_is_known: bool = False
    if_nan: str = "it is NaN"
    logit: Logit | None = None

    def __init__(self, loss: Callable[[Batch], Tensor]) -> None:
        self._loss = loss

    def expect(self, logit: Logit | None) -> None:
        """See ``Measure``."""

    def start(self, batch: Batch) -> Used[Tensor]:
        """See ``Measure``."""
        return use(self._losses, batch)

    def finish(self, used: Used[Tensor], ids: Int64Array) -> Arrays:
        """See ``Measure``."""
        if used.output is None:
            return {"loss": np.full(len(ids), np.nan, np.float32)}
        losses = used.output.float().cpu().numpy()
        if np.isinf(losses).any():
            first = ids[used.rows][np.isinf(losses)][0]
            raise ValueError(
                f"losses must be finite, or NaN where there is none, got an infinite one for "
                f"sample {first}; check the reference model"
            )
        return {"loss": _spread(losses, used.rows, len(ids))}

    def _losses(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            found: object = self._loss(batch)
        shape = (num_examples(batch),)
        if not (
            isinstance(found, Tensor) and found.is_floating_point() and tuple(found.shape) == shape
        ):
            has = type(found).__name__
            if isinstance(found, Tensor):
                has = f"{found.dtype} of {tuple(found.shape)}"
            raise ValueError(
                f"a loss function must return a floating tensor of shape {shape}, one number per "
                f"example, got {has}; use reduction='none'"
            )
        return found.detach()


def check_same_logit(before: Logit, now: Logit) -> None:
    """Raise ``ValueError`` unless both are of one model."""
    for name, was, found in zip(Logit._fields, before, now, strict=True):
        if was != found:
            raise ValueError(
                f"a cache must have one {name} throughout, but the reference's was {was} and is "
                f"now {found}; freeze it, or delete the unfinished cache to start over"
            )


def _missing(found: Embeddings, ids: Int64Array) -> NDArray[np.bool_]:
    """Bool [n]: which rows are NaN on a side; raises unless all others have unit norm."""
    norms = norms_of(found)
    wrong = ~is_unit(norms)
    missing = torch.zeros_like(wrong)
    if wrong.any():
        missing = torch.stack([found.image, found.text]).isnan().all(dim=2)
        wrong &= ~missing
    if wrong.any():
        side, row = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{('image', 'text')[side]} embeddings must be finite and of unit norm, but that of "
            f"sample {ids[row]} has norm {float(norms[side, row]):.4g}; normalize them in the "
            "reference's embed"
        )
    rows: NDArray[np.bool_] = missing.any(dim=0).cpu().numpy()
    return rows


def _spread(values: NDArray[Any], rows: list[int], size: int) -> NDArray[Any]:
    """An array of ``size`` rows: the values at ``rows``, NaN elsewhere."""
    if len(rows) == size:
        return values
    found = np.full((size, *values.shape[1:]), np.nan, values.dtype)
    found[rows] = values
    return found
