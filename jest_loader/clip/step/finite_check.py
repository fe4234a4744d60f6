"""Checks that losses and gradients are finite, without waiting for the device at each step."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jest_loader.checks import first_few
from jest_loader.files import save_json

_NUM_NAMED = 5


@dataclass(frozen=True)
class StepValues:
    """Loss and gradient of one optimizer step.

    Args:
        step: Number of the step, from 1.
        loss: The sub-batch's loss before the step.
        gradient_norm: The gradient's norm before clipping.
    """

    step: int
    loss: float
    gradient_norm: float


class FiniteCheck:
    """Checks each step's loss and gradient norm once they are known: on a GPU one step later.

    They are copied while the GPU computes the next step, so no step waits for them. ``settle``
    waits; call it before anything of the last step is saved, measured or logged.

    Args:
        path: Folder of the file ``nonfinite.json``.
        rank: This process. All ranks see the same loss, and each names its own examples: rank 0 in
            ``nonfinite.json``, rank 1 in ``nonfinite-1.json``.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self._path = path / ("nonfinite.json" if rank == 0 else f"nonfinite-{rank}.json")
        self._pending: _Pending | None = None
        self._last: StepValues | None = None

    def add(self, step: int, loss: Tensor, gradient_norm: Tensor, sample_ids: Any) -> None:
        """Queue a step's values, and check the step before.

        Args:
            step: Its number, from 1.
            loss: [].
            gradient_norm: [], on the same device.
            sample_ids: The sub-batch's.

        Raises:
            FloatingPointError: if the loss or the gradient of a step is not finite. Its message and
                ``nonfinite.json`` name the examples.
        """
        before, self._pending = self._pending, _Pending(step, loss, gradient_norm, sample_ids)
        if before is not None:
            self._check(before)
        if loss.device.type == "cpu":
            self.settle()

    def settle(self) -> StepValues | None:
        """The last step's values, once they are known to be finite; None before the first.

        Raises:
            FloatingPointError: as ``add``.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._check(pending)
        return self._last

    def _check(self, pending: "_Pending") -> None:
        values = pending.values()
        if math.isfinite(values.loss) and math.isfinite(values.gradient_norm):
            self._last = values
            return
        ids = torch.as_tensor(pending.sample_ids).tolist()
        save_json(
            self._path,
            {
                "step": values.step,
                "loss": _as_json(values.loss),
                "gradient_norm": _as_json(values.gradient_norm),
                "sample_ids": ids,
            },
        )
        if math.isfinite(values.loss):
            what, found = "norm of the gradient", values.gradient_norm
        else:
            what, found = "loss", values.loss
        raise FloatingPointError(
            f"the {what} must be finite, got {found} at step {values.step} on samples "
            f"{first_few(ids, most=_NUM_NAMED)} (all in {self._path}); look at "
            "those, or start again with a lower optimizer.lr, in another folder"
        )


class _Pending:
    """A step whose values may still be computed on a GPU."""

    def __init__(self, step: int, loss: Tensor, gradient_norm: Tensor, sample_ids: Any) -> None:
        self.step = step
        self.sample_ids = sample_ids
        both = torch.stack([loss.detach().float(), gradient_norm.detach().float()])
        self._copied: torch.cuda.Event | None = None
        self._values = both
        if both.is_cuda:
            # Into pinned memory: the copy is queued behind the step, and nobody waits for it yet.
            self._values = torch.empty(2, pin_memory=True).copy_(both, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def values(self) -> StepValues:
        """The values; waits for the step, but not for what was queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return StepValues(self.step, *self._values.tolist())


def _as_json(value: float) -> float | str:
    """JSON has no word for NaN."""
    return value if math.isfinite(value) else str(value)
