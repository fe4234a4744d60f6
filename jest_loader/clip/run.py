"""A training run: all that changes from step to step, and its saved state."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from jest_loader.checks import is_number, shown, whole
from jest_loader.clip.config.options import plain
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.evaluation.evaluate import headline
from jest_loader.clip.evaluation.held_out import HeldOut
from jest_loader.clip.loading.build import calibration_of, proxy_of
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.clip.step.finite_check import FiniteCheck
from jest_loader.clip.step.optimizer import check_settings
from jest_loader.clip.step.trained_rows import TrainedRows
from jest_loader.clip.step.watched import WatchedColumns
from jest_loader.cost.flops import ExampleCost
from jest_loader.files import finite
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.telemetry import Counts
from jest_loader.ranks.ranks import Ranks
from jest_loader.training_state import check_optimizer, check_weights


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics after some steps.

    Args:
        step: Optimizer steps done.
        seconds: Time spent on them, without evaluations and checkpoints.
        metrics: What ``evaluate`` returned.
        selection: ``SelectionStats`` of the last sub-batch, as JSON values.
        watched: Means of ``data.watch_columns`` over the sub-batches since the evaluation before.
    """

    step: int
    seconds: float
    metrics: dict[str, float]
    selection: dict[str, Any] | None = None
    watched: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_saved(cls, saved: dict[str, Any], num_steps: int) -> "Evaluation":
        """The evaluation that ``asdict`` made ``saved`` of, within a run's ``num_steps``.

        Raises:
            ValueError: if it cannot be of such a run.
        """
        found = cls(**saved)
        json.dumps(finite(saved))  # As metrics.json is to hold it.
        whole("the step of an evaluation", found.step, 0, num_steps)
        for name, value in {**found.metrics, **found.watched, "seconds": found.seconds}.items():
            if not is_number(value):
                raise ValueError(
                    f"an evaluation must have numbers, got {shown(name)} = {shown(value)}"
                )
        return found


@dataclass
class Run:
    """A training run, as ``start_run`` makes it and the training loop changes it.

    All ranks hold the same model. Counts, flops and means of watched columns cover all ranks;
    rank 0 alone holds the held-out sets and the evaluations.

    Args:
        config: Its configuration.
        ranks: The processes that train together.
        model: The learner.
        in_training: The learner as the training step calls it: within DDP if there are more ranks.
        optimizer: Over the learner's parameters.
        loader: The training data, as selected sub-batches.
        held_out: Held-out sets by name.
        device: Where this rank trains.
        cost: Flops per example.
        watched: Running means of watched columns.
        trained_rows: Which pictures were trained on.
        average: The average of the learner's weights; None keeps none.
        reference: Names the reference that scores; None if none does.
        checkpoints: The run's folder.
        check: Watches that losses and gradients are finite.
        step: Optimizer steps done.
        seconds: Time spent on them, without evaluations and checkpoints.
        evaluations: All evaluations so far.
    """

    config: TrainConfig
    ranks: Ranks
    model: ClipModel
    in_training: nn.Module
    optimizer: torch.optim.Optimizer
    loader: JestDataset
    held_out: dict[str, HeldOut]
    device: torch.device
    cost: ExampleCost
    watched: WatchedColumns
    trained_rows: TrainedRows
    average: AveragedModel | None
    reference: str | None
    checkpoints: CheckpointFolder
    check: FiniteCheck
    step: int = 0
    seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.steps

    def is_due(self, every: int, *, ahead: int = 0) -> bool:
        """Whether an action of every ``every`` steps and of the last step falls on step + ahead."""
        step = self.step + ahead
        return step % every == 0 or step == self.config.steps

    @property
    def counts(self) -> Counts:
        """Examples loaded, scored, trained and skipped so far."""
        return self.loader.counts

    @property
    def flops(self) -> float:
        """Flops of the steps done, by the cost model."""
        return self.cost.flops(self.counts).total

    def summary(self) -> dict[str, Any]:
        """The run so far, as JSON values."""
        return {
            "finished": self.finished,
            "steps": self.step,
            "seconds": self.seconds,
            "flops": self.flops,
            "counts": self.counts.to_dict(),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "config": plain(self.config),
        }

    def describe(self) -> str:
        """One line on how the run ended, and where it is."""
        measured = ""
        if self.evaluations:
            measured = f"; held out: {headline(self.evaluations[-1].metrics)}"
        selector, out = self.config.selection.selector, self.config.out
        return (
            f"{self.step} steps with {selector} selection in {self.seconds:.0f} s{measured}; {out} "
            "has checkpoint.pt and metrics.json"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step, as tensors and plain values."""
        proxy = proxy_of(self.loader)
        return {
            "step": self.step,
            "seconds": self.seconds,
            "watched": self.watched.state_dict(),
            "seen": self.trained_rows.state_dict(),
            "reference": self.reference,
            "calibration": calibration_of(self.loader),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "proxy": None if proxy is None else proxy.state_dict(),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a run that was just started to where ``state_dict`` was called.

        Raises:
            ValueError: if another reference scored the candidates, or the data are others.
        """
        step, proxy = state["step"], proxy_of(self.loader)
        self._check(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.step, self.seconds = step, state["seconds"]
        self.watched.load_state_dict(state["watched"])
        self.trained_rows.load_state_dict(state["seen"])
        self.evaluations = [Evaluation.from_saved(one, step) for one in state["evaluations"]]
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        if proxy is not None:
            proxy.load_state_dict(state["proxy"])

    def _check(self, state: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the parts of a state are of this run, and of one step."""
        if state["reference"] != self.reference:
            raise ValueError(
                f"{self.config.out} holds a run whose reference was {shown(state['reference'])}, "
                f"which cannot go on with {self.reference}; put that one back, or choose another "
                "folder"
            )
        step, proxy = state["step"], proxy_of(self.loader)
        if (delivered := state["loader"]["num_steps"]) != step:
            raise ValueError(
                f"a checkpoint must be of one step, but is of step {step} with the data of step "
                f"{shown(delivered)}; name another"
            )
        check_weights(self.model, state["model"])
        check_optimizer(self.optimizer, state["optimizer"], most_steps=step)
        check_settings(self.optimizer, state["optimizer"])
        if self.average is not None:
            check_weights(self.average.module, state["average"], "a checkpoint's average")
        if proxy is not None:
            whose, saved = "a checkpoint's proxy", state["proxy"]["optimizer"]
            check_optimizer(proxy.optimizer, saved, whose, most_steps=step)
            check_settings(proxy.optimizer, saved)
