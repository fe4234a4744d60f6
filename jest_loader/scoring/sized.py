"""Embedders that know the batch size their model was trained at, and score at another."""

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from typing import Any, Protocol, Self, runtime_checkable

import torch

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.embeddings import Embeddings
from jest_loader.scoring.calibration import Calibration, adapted_bias, calibrate
from jest_loader.skipped import use


@runtime_checkable
class SizeAdapting(Protocol):
    """A scorer or embedder whose logits depend on how many examples are trained on at once."""

    def at_sub_batch_size(self, size: int) -> Any:
        """The same for sub-batches of ``size`` over all ranks; itself where that changes nothing.

        ``JestDataset`` calls it at the start of each pass, with what it was given itself.
        """
        ...


@runtime_checkable
class TrainedAtSize(Protocol):
    """An embedder, or a model, that may know what batch size it was trained at."""

    @property
    def trained_batch_size(self) -> int | None:
        """How many examples, over all ranks, were each other's negatives; None if not known."""
        ...


class SizedEmbedder:
    """What embedders share whose bias is adapted to the sub-batches.

    A subclass calls ``set_size`` once, and returns ``adapted`` embeddings.
    """

    trained_batch_size: int | None = None
    calibration: Calibration | None = None
    _sub_batch_size: int | None = None

    def set_size(self, trained_batch_size: int | None, calibration: Calibration | None) -> None:
        """Let the logits be those of a model of that size, or the calibration's.

        Raises:
            ValueError: if a number is out of range, or both are given.
        """
        if calibration is None:
            self.trained_batch_size = checked_batch_size(trained_batch_size)
            return
        if trained_batch_size is not None:
            raise ValueError(
                "give trained_batch_size or calibration, which has a batch size of its own, not "
                f"both, got {trained_batch_size} and {calibration}"
            )
        self.calibration = Calibration(*calibration).checked()
        self.trained_batch_size = self.calibration.batch_size

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch's examples."""
        raise NotImplementedError

    def at_sub_batch_size(self, size: int) -> Self:
        """The same with the bias for sub-batches of ``size``, where it can be adapted."""
        if self.trained_batch_size is None:
            return self
        embedder = copy(self)
        embedder._sub_batch_size = size
        return embedder

    def calibrated(
        self, batches: Iterable[Batch], batch_size: int, *, max_pairs: int = 1024
    ) -> Self:
        """The same with the scale and bias that ``calibrate`` finds on the first of ``batches``.

        They are then its ``calibration``. The same batches give the same, so a run that goes on may
        find it again; or it keeps the three numbers in its checkpoint, and gives them as
        ``calibration``. Of several ranks, give all the same batches.

        Args:
            batches: As ``embed`` takes them, none that the model was trained on.
            batch_size: That of the sub-batches over all ranks.
            max_pairs: No further batch is read once these hold so many examples.

        Raises:
            ValueError: as ``calibrate``.
        """
        sides: list[Embeddings] = []
        for batch in batches:
            found = use(self.embed, batch).output
            sides += [] if found is None else [found]
            if sum(len(side.image) for side in sides) >= max_pairs:
                break
        if not sides:
            raise ValueError("calibrated needs batches with usable examples, got none; give more")
        image, text = (
            torch.cat([getattr(side, name) for side in sides]) for name in ("image", "text")
        )
        sample = replace(sides[0], image=image, text=text, skipped={})
        return self.with_calibration(calibrate(sample, batch_size, max_pairs=max_pairs))

    def with_calibration(self, calibration: Calibration) -> Self:
        """The same with that scale and bias.

        Raises:
            ValueError: if no model can have these logits.
        """
        embedder = copy(self)
        embedder.set_size(None, calibration)
        return embedder

    def adapted(self, embeddings: Embeddings) -> Embeddings:
        """The embeddings of the model, with the scale and bias to score with."""
        if embeddings.logit_bias is None:
            return embeddings
        scale, bias = embeddings.logit_scale, embeddings.logit_bias
        if self.calibration is not None:
            scale, bias, _ = self.calibration
        if self.trained_batch_size is not None and self._sub_batch_size is not None:
            bias = adapted_bias(bias, self.trained_batch_size, self._sub_batch_size)
        return replace(embeddings, logit_scale=scale, logit_bias=bias)


def checked_batch_size(trained_batch_size: int | None) -> int | None:
    """The size, if it is one or None; raises ``ValueError`` otherwise."""
    if trained_batch_size is None:
        return None
    return whole("trained_batch_size", trained_batch_size, 1)
