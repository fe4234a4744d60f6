"""Embedders that run a model: the learner itself, or a frozen reference."""

from collections.abc import Callable
from copy import copy
from typing import Unpack

import torch
from torch import nn

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.embedding_checks import warn_if_coarse
from jest_loader.scoring.precision import remedy
from jest_loader.scoring.runner import ModelRunner, Outputs, RunOptions
from jest_loader.scoring.sized import SizedEmbedder, TrainedAtSize
from jest_loader.scoring.wrappers import prepare_method, unwrapped
from jest_loader.seen import SeenFunction, check_seen

EmbedFunction = Callable[[nn.Module, Batch], Embeddings]
"""Runs a model on a batch, whose tensors are on the model's device."""


class ModelEmbedder(SizedEmbedder):
    """Embeds with a model: in ``eval`` mode, without gradients, in a precision of its own.

    Autocast around the training loop has no effect here; one that ``embed`` enters itself has.
    The modes of all submodules are put back afterwards. Where ``embed`` or ``prepare`` raises
    ``SkipRowsError``, it is called again without the rows that the error names. These are NaN in
    the embeddings, and ``Embeddings.skipped`` has the reasons.

    Args:
        model: The model, also in DDP, FSDP or compiled. Of a model in DDP ``embed`` is given the
            module within.
        embed: ``embed(model, batch) -> Embeddings``, the batch's tensors on the model's device.
            None calls ``model.embed(batch)``, which is not compiled where only the module is.
        trained_batch_size: How many examples, over all ranks, were each other's negatives when the
            model was trained with the sigmoid loss. ``JestDataset`` then has the bias adapted to
            its sub-batches. None leaves the bias as it is, right for a model trained on the
            sub-batches.
        calibration: In its place, the scale and bias that ``calibrate`` found for a batch size.
        options: How the model is run: ``prepare``, ``micro_batch_size`` or ``max_memory_bytes``,
            and ``precision``, by keyword; ``RunOptions`` describes them.

    Raises:
        ValueError: if the model has no ``embed`` and none is given, it is wrapped in FSDP1 and no
            ``embed`` is given, or an argument is of another type or out of range.
        TypeError: if a keyword is none of ``RunOptions``.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        trained_batch_size: int | None = None,
        calibration: Calibration | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        given: object = model
        if not isinstance(given, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {model!r}")
        if embed is not None and not callable(embed):
            raise ValueError(f"embed must be a function(model, batch) or None, got {embed!r}")
        self.model = model
        self.set_size(trained_batch_size, calibration)
        if embed is None:
            prepare_method(unwrapped(model), "embed")
        function = _call_embed if embed is None else embed
        self._runner = ModelRunner(model, function, _checked, **options)

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch, on the model's device, in fp32 (fp64 of a model in fp64).

        Raises:
            ValueError: if the batch lacks a column that the model reads, ``embed`` returns
                anything but Embeddings with a row per example, or the model cannot run in the
                precision.
            SkipRowsError: if no row can be used.
        """
        found = self._runner.run(batch)
        first = found.parts[0]
        if first.image.dtype.itemsize < torch.float32.itemsize:
            # Scores see fp32 and cannot tell that the model has rounded.
            warn_if_coarse("model", first.image.dtype, float(first.logit_scale))
        embeddings = Embeddings(
            found.column(lambda part: part.image),
            found.column(lambda part: part.text),
            first.logit_scale,
            first.logit_bias,
            _skipped(found),
        )
        return self.adapted(embeddings)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of autocast while the model embeds; None where it runs without.

        Raises:
            ValueError: if autocast cannot bring the model's weights to the precision.
        """
        return self._runner.dtype

    @property
    def if_not_finite(self) -> str:
        """What to change where its embeddings are not finite; empty but in fp16."""
        return remedy(self.dtype)


class LiveLearner(ModelEmbedder):
    """Embeds with the model that is being trained, with its weights as they are now.

    The arguments are those of ``ModelEmbedder``.
    """

    def snapshot(self) -> "LiveLearner":
        """The same with a copy of the weights as they are now, valid until the next call.

        Raises:
            ValueError: if the model is sharded by FSDP.
        """
        learner = copy(self)
        learner._runner = self._runner.snapshot()
        return learner


class FrozenReference(ModelEmbedder):
    """Embeds with a reference model, one trained on well-curated data, and freezes its parameters.

    The other arguments are those of ``ModelEmbedder``. A model that has ``trained_batch_size``
    itself, as those of the bundled trainer's checkpoints have, need not be told it.

    Args:
        seen: Says which examples of a batch the model was trained on: ``SeenRows(ids)``, or a
            function of the batch that returns bool [B]. None where it is not known.

    Raises:
        ValueError: as ``ModelEmbedder``, or if ``seen`` is something else.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: EmbedFunction | None = None,
        *,
        trained_batch_size: int | None = None,
        calibration: Calibration | None = None,
        seen: SeenFunction | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        size, inner = trained_batch_size, unwrapped(model)
        if size is None and calibration is None and isinstance(inner, TrainedAtSize):
            size = inner.trained_batch_size
        super().__init__(model, embed, trained_batch_size=size, calibration=calibration, **options)
        check_seen(seen)
        self.has_seen = seen
        model.requires_grad_(requires_grad=False).eval()

    def snapshot(self) -> "FrozenReference":
        """Itself: its weights stay as they are."""
        return self


def _call_embed(model: nn.Module, batch: Batch) -> Embeddings:
    # DDP has no embed; its forward is what averages gradients in training.
    embeddings: Embeddings = getattr(model, "embed", model)(batch)
    return embeddings


def _skipped(found: Outputs[Embeddings]) -> dict[int, str]:
    """Why rows have no embedding: ``SkipRowsError`` named them, or what ``embed`` returned."""
    skipped = dict(found.skipped)
    start = 0
    for part in found.parts:
        skipped |= {found.rows[start + row]: reason for row, reason in part.skipped.items()}
        start += len(part.image)
    return skipped


def _checked(embeddings: object, num_rows: int) -> Embeddings:
    if not isinstance(embeddings, Embeddings):
        raise ValueError(
            "embed must return Embeddings(image, text, logit_scale, logit_bias), "
            f"got {type(embeddings).__name__}"
        )
    if len(embeddings.image) != num_rows:
        raise ValueError(
            "embed must return one row per example of the batch, "
            f"got {len(embeddings.image)} for {num_rows}"
        )
    return embeddings
