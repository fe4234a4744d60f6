"""RHO-LOSS (arXiv 2206.07137): the loss of any model on an example, less a reference's."""

from collections.abc import Callable
from copy import copy
from typing import TypeGuard, Unpack

from torch import Tensor, nn

from jest_loader.batch import Batch
from jest_loader.column import moved
from jest_loader.protocols import ExampleValues, SkippingValues
from jest_loader.scoring.precision import because, remedies, remedy
from jest_loader.scoring.runner import ModelRunner, RunOptions
from jest_loader.scoring.scores import ExampleScores

LossFunction = Callable[[nn.Module, Batch], Tensor]
"""Losses of a model, one per example of a batch, whose tensors are on the model's device."""


class PerExample:
    """Scores each candidate by its own loss less the reference's, for any model and any loss.

    With a reference that was trained on held-out data it is RHO-LOSS (equation 3 of arXiv
    2206.07137); without a reference it is the plain loss. It is not joint: choosing a candidate
    changes no other candidate's score. The model is run as ``LiveLearner`` runs one.

    Args:
        model: The model being trained, also in DDP, FSDP or compiled.
        loss: ``loss(model, batch) -> losses``, floating [B] or [B, 1].
        reference: Has ``values(batch) -> losses``: another ``PerExample`` around a frozen model, or
            stored losses. None subtracts nothing.
        options: How the model is run: ``prepare``, ``micro_batch_size`` or ``max_memory_bytes``,
            and ``precision``, by keyword; ``RunOptions`` describes them.

    Raises:
        ValueError: if ``loss`` is no function, ``reference`` has no ``values``, or an option is out
            of range.
        TypeError: if a keyword is none of ``RunOptions``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        reference: ExampleValues | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        given: object = loss
        if not callable(given) or isinstance(given, nn.Module):
            raise ValueError(
                "loss must be a function(model, batch) that returns a loss per example, "
                f"got {type(loss).__name__}"
            )
        if reference is not None and not isinstance(reference, ExampleValues):
            raise ValueError(
                "reference must have values(batch), a loss per example, "
                f"got {type(reference).__name__}; wrap a model in PerExample(model, loss)"
            )
        self.model = model
        self.reference = reference
        self._runner = ModelRunner(model, loss, _checked, **options)

    def values(self, batch: Batch) -> Tensor:
        """The model's losses, of at least fp32, [B], on its device; NaN for skipped rows.

        Raises:
            ValueError: if the batch lacks a column that the loss reads, or the loss is not one
                number per example.
            SkipRowsError: if no row can be used.
        """
        return self.values_and_skipped(batch)[0]

    def values_and_skipped(self, batch: Batch) -> tuple[Tensor, dict[int, str]]:
        """The losses, and the reason by row for those that are skipped.

        Raises:
            ValueError: as ``values``.
            SkipRowsError: as ``values``.
        """
        found = self._runner.run(batch)
        return found.column(lambda losses: losses), found.skipped

    def score(self, super_batch: Batch) -> ExampleScores:
        """Scores of the super-batch's candidates.

        Raises:
            ValueError: as ``values``, or if the reference has not one value per candidate.
        """
        losses, skipped = self.values_and_skipped(super_batch)
        if self.reference is None:
            return ExampleScores(losses, skipped)
        if isinstance(self.reference, SkippingValues):
            irreducible, absent = self.reference.values_and_skipped(super_batch)
        else:
            irreducible, absent = self.reference.values(super_batch), {}
        _check_values(irreducible, len(losses))
        absent_rows = irreducible.isnan().nonzero()[:, 0].tolist()
        unnamed = dict.fromkeys(
            absent_rows, because("the reference has no value for it", self.reference)
        )
        irreducible = moved(irreducible, losses.device)
        return ExampleScores(losses - irreducible, {**unnamed, **absent, **skipped})

    @property
    def if_not_finite(self) -> str:
        """What to change where its values are not finite; empty but in fp16."""
        return remedy(self._runner.dtype) or remedies([self.reference])

    def snapshot(self) -> "PerExample":
        """The same with a copy of the weights as they are now, valid until the next call."""
        scorer = copy(self)
        scorer._runner = self._runner.snapshot()
        return scorer


def _checked(losses: object, num_rows: int) -> Tensor:
    if not _is_column(losses, {(num_rows,), (num_rows, 1)}):
        raise ValueError(
            f"loss must return one floating-point number per example, shape ({num_rows},), got "
            f"{_kind(losses)}; use reduction='none', and average what belongs to one example, such "
            "as the tokens of a text"
        )
    return losses.reshape(num_rows)


def _check_values(values: object, num_rows: int) -> None:
    if not _is_column(values, {(num_rows,)}):
        raise ValueError(
            "the reference's values must be one floating-point number per candidate, shape "
            f"({num_rows},), got {_kind(values)}"
        )


def _is_column(value: object, shapes: set[tuple[int, ...]]) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) in shapes


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
