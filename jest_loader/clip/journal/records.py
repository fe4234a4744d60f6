"""The record of a step that goes into the logs."""

from typing import Any

from jest_loader.clip.run import Run
from jest_loader.clip.step.finite_check import StepValues
from jest_loader.loader.telemetry import SelectionStats


class Records:
    """Makes the records of a run's steps, each with the examples per second since the one before.

    Args:
        run: The run as it starts or goes on.
    """

    def __init__(self, run: Run) -> None:
        self._trained, self._seconds = run.counts.trained, run.seconds

    def of_step(
        self, run: Run, values: StepValues, stats: SelectionStats, step_ms: float
    ) -> dict[str, Any]:
        """The record of the last step.

        Args:
            run: The run after the step.
            values: Its loss and gradient.
            stats: The selection of its sub-batch.
            step_ms: Its time, in milliseconds; the record has waiting, scoring, selecting and
                materializing as fractions of it.
        """
        counts, bias = run.counts, run.model.logit_bias
        seconds = max(run.seconds - self._seconds, 1e-9)
        rate = (counts.trained - self._trained) / seconds
        self._trained, self._seconds = counts.trained, run.seconds
        return {
            "step": values.step,
            "loss": values.loss,
            "gradient_norm": values.gradient_norm,
            "lr": run.optimizer.param_groups[0]["lr"],
            "logit_scale": run.model.log_scale.exp().item(),
            "logit_bias": None if bias is None else bias.item(),
            "score": stats.score,
            "uniform_score": stats.uniform_score,
            "seen_candidates": stats.seen_candidates,
            "seen_chosen": stats.seen_chosen,
            "steps_past_reference": stats.steps_past_reference,
            "examples_per_s": rate,
            "waiting_fraction": stats.waiting_ms / step_ms,
            "scoring_fraction": stats.scoring_ms / step_ms,
            "selecting_fraction": stats.selecting_ms / step_ms,
            "materializing_fraction": stats.materializing_ms / step_ms,
            "counts": counts.to_dict(),
            "flops": run.flops,
        }
