"""The training loop."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from jest_loader.batch import Batch, to_device
from jest_loader.clip import checkpoint
from jest_loader.clip.config import TrainConfig
from jest_loader.clip.data import Prepare, PreparedSource, open_shards
from jest_loader.clip.evaluate import HeldOut, evaluate
from jest_loader.clip.gradients import backward
from jest_loader.clip.model import ClipModel
from jest_loader.clip.optimizer import build_optimizer, set_learning_rate
from jest_loader.clip.selection import build_loader, example_cost
from jest_loader.clip.watched import WatchedColumns
from jest_loader.cost import ExampleCost
from jest_loader.dataset import JestDataset
from jest_loader.protocols import BadSamplesError
from jest_loader.skipped import listed
from jest_loader.telemetry import Counts


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics after some steps.

    Args:
        step: Optimizer steps done.
        seconds: Time spent on them, evaluation and checkpoints left out.
        metrics: What ``evaluate`` returned.
        selection: ``SelectionStats`` of the last sub-batch, as JSON values.
        watched: Means of ``data.watch_columns`` over the sub-batches since the evaluation before.
    """

    step: int
    seconds: float
    metrics: dict[str, float]
    selection: dict[str, Any] | None = None
    watched: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """A training run: what changes from step to step."""

    config: TrainConfig
    model: ClipModel
    optimizer: torch.optim.Optimizer
    loader: JestDataset
    held_out: HeldOut | None
    device: torch.device
    cost: ExampleCost
    watched: WatchedColumns
    step: int = 0
    seconds: float = 0.0
    left_out: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """The loader's, less what was left out of batches that had nothing to put in its place."""
        return self.loader.counts.plus(Counts(trained=-self.left_out, skipped=self.left_out))

    @property
    def flops(self) -> float:
        """Flops of the steps done, by the cost model."""
        return self.cost.flops(self.counts).total

    def summary(self) -> dict[str, Any]:
        """The run so far, as JSON values."""
        return {
            "finished": self.step == self.config.steps,
            "steps": self.step,
            "seconds": self.seconds,
            "flops": self.flops,
            "counts": self.counts.to_dict(),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "config": checkpoint.plain(self.config),
        }


def train(config: TrainConfig, *, label: str = "training") -> Run:
    """Train to ``config.steps``, going on from the checkpoint in ``config.out`` if there is one.

    Args:
        config: The run.
        label: Shown beside the progress bar.

    Raises:
        ValueError: if the configuration does not fit the data or an earlier run in the same folder.
        FloatingPointError: if the loss is not finite.
    """
    from tqdm import tqdm

    config.out.mkdir(parents=True, exist_ok=True)
    run = _start(config)
    batches = _endless(run.loader)
    seconds_between = 0.1 if sys.stderr.isatty() else 10.0  # A log needs fewer lines.
    with tqdm(
        total=config.steps, initial=run.step, desc=label, unit="step", mininterval=seconds_between
    ) as bar:
        while run.step < config.steps:
            started = time.perf_counter()
            loss = _train_step(run, next(batches))
            run.seconds += time.perf_counter() - started
            bar.update()
            _evaluate_and_save(run)
            if run.step % 10 == 0:
                bar.set_postfix(_postfix(run, loss), refresh=False)
    checkpoint.save_json(config.out / "metrics.json", run.summary())
    return run


def describe(run: Run) -> str:
    """One line on how a run ended, and where it is."""
    measured = ""
    if run.evaluations:
        metrics = run.evaluations[-1].metrics
        measured = (
            f"; held out: zero-shot {metrics['zero_shot_top1']:.1%}, top-5 "
            f"{metrics['zero_shot_top5']:.1%}, retrieval R@10 {metrics['retrieval_r10']:.1%}"
        )
    return (
        f"{run.step} steps with {run.config.selection.selector} selection in {run.seconds:.0f} s"
        f"{measured}; "
        f"{run.config.out} has checkpoint.pt and metrics.json"
    )


def _start(config: TrainConfig) -> Run:
    path = config.out / "checkpoint.pt"
    saved = checkpoint.load(path) if path.is_file() else None
    if saved is not None:
        checkpoint.check_same_run(path, saved["config"], config)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    model = _new_model(config, resuming=saved is not None).to(device)
    run = Run(
        config,
        model,
        build_optimizer(model, config.optimizer),
        build_loader(config, model, device),
        _held_out(config),
        device,
        example_cost(config, model),
        WatchedColumns(config.data.watch_columns),
    )
    if saved is not None:
        _restore(run, saved)
    return run


def _new_model(config: TrainConfig, *, resuming: bool) -> ClipModel:
    architecture = config.architecture
    model = (
        architecture.empty(config.loss)
        if resuming
        else architecture.build(config.loss, scale=config.initial_scale, bias=config.initial_bias)
    )
    if config.checkpoint_activations:
        model.checkpoint_activations()
    if config.compile:
        model.compile_towers()
    return model


def _restore(run: Run, contents: dict[str, Any]) -> None:
    run.model.load_state_dict(contents["model"])
    run.optimizer.load_state_dict(contents["optimizer"])
    run.loader.load_state_dict(contents["loader"])
    run.step, run.seconds = contents["step"], contents["seconds"]
    run.left_out = contents.get("left_out", 0)
    run.watched.load_state_dict(contents.get("watched", {}))
    run.evaluations = [Evaluation(**evaluation) for evaluation in contents["evaluations"]]


def _train_step(run: Run, batch: Batch) -> Tensor:
    """Train on a batch; its loss, []."""
    config = run.config
    run.watched.add(batch)
    run.optimizer.zero_grad(set_to_none=True)
    loss = backward(run.model, to_device(batch, run.device), run.step, config)
    nn.utils.clip_grad_norm_(run.model.parameters(), config.optimizer.clip_norm)
    set_learning_rate(run.optimizer, run.step, config)
    run.optimizer.step()
    run.step += 1
    run.left_out += config.data.batch_size - len(batch["caption"])
    return loss


def _evaluate_and_save(run: Run) -> None:
    config = run.config
    last = run.step == config.steps
    if run.held_out is not None and (last or run.step % config.eval_every == 0):
        metrics = evaluate(run.model, run.held_out)
        stats = run.loader.stats
        selection = None if stats is None else stats.to_dict()
        run.evaluations.append(
            Evaluation(run.step, run.seconds, metrics, selection, run.watched.means())
        )
    if last or run.step % config.checkpoint_every == 0:
        contents = {
            "step": run.step,
            "seconds": run.seconds,
            "left_out": run.left_out,
            "watched": run.watched.state_dict(),
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "loader": run.loader.state_dict(),
            "evaluations": [asdict(evaluation) for evaluation in run.evaluations],
        }
        checkpoint.save(config.out / "checkpoint.pt", config, contents)
        checkpoint.save_json(config.out / "metrics.json", run.summary())


def _postfix(run: Run, loss: Tensor) -> dict[str, str]:
    shown = {"loss": f"{loss.item():.3f}"}
    stats = run.loader.stats
    if stats is not None and stats.score is not None:
        shown["score"] = f"{stats.score:.2f} (uniform {stats.uniform_score:.2f})"
    if run.evaluations:
        shown["held-out"] = f"{run.evaluations[-1].metrics['zero_shot_top1']:.1%}"
    return shown


def _held_out(config: TrainConfig) -> HeldOut | None:
    if config.data.test is None:
        return None
    shards = open_shards(config.data.test, batch_size=1024, shuffle=False, drop_last=False)
    try:
        data = replace(config.data, watch_columns=())
        return HeldOut.read(PreparedSource(shards, Prepare(data, config.architecture)))
    except BadSamplesError as error:
        places = {place: place for place in error.reasons}  # Prepare names them by place already.
        raise ValueError(
            f"all images of {config.data.test} must be readable to evaluate on them, but not "
            f"{listed(error.reasons, {'sample_id': places})}; mend them, or leave them out of it"
        ) from error


def _endless(loader: JestDataset) -> Iterator[Batch]:
    while True:
        yield from loader


def choose_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is a GPU where there is one.

    Raises:
        ValueError: if it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}; use auto") from error
    return torch.device(name)
