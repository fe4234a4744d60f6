"""The training loop."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from jest_loader.batch import Batch, to_device
from jest_loader.clip import checkpoint
from jest_loader.clip.average import AverageWeights
from jest_loader.clip.checkpoint_folder import CheckpointFolder
from jest_loader.clip.config import TrainConfig
from jest_loader.clip.data import Prepare, PreparedSource, open_shards
from jest_loader.clip.evaluate import HeldOut, evaluate
from jest_loader.clip.finite_check import FiniteCheck
from jest_loader.clip.gradients import backward
from jest_loader.clip.logs import Logs, open_logs
from jest_loader.clip.optimizer import build_optimizer, clamp_scale, set_learning_rate
from jest_loader.clip.progress import Progress
from jest_loader.clip.random_states import seed_all
from jest_loader.clip.records import Evaluation, Records
from jest_loader.clip.run_state import restore, state_of
from jest_loader.clip.selection import build_loader, example_cost
from jest_loader.clip.stop import Stop, Stopped
from jest_loader.clip.towers import TwoTower
from jest_loader.clip.watched import WatchedColumns
from jest_loader.cost import ExampleCost
from jest_loader.dataset import JestDataset
from jest_loader.protocols import BadSamplesError
from jest_loader.skipped import listed
from jest_loader.telemetry import Counts


@dataclass
class Run:
    """A training run: what changes from step to step."""

    config: TrainConfig
    model: TwoTower
    optimizer: torch.optim.Optimizer
    loader: JestDataset
    held_out: HeldOut | None
    device: torch.device
    cost: ExampleCost
    watched: WatchedColumns
    average: AverageWeights | None
    checkpoints: CheckpointFolder
    check: FiniteCheck
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
        FloatingPointError: if a loss or gradient is not finite; what was saved is from before.
        Stopped: if the run was saved before its end, because of SIGTERM or ``config.max_seconds``.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    with Stop(config.max_seconds) as stop:
        run = _start(config)
        if run.step < config.steps:
            with (
                open_logs(config.log, config.out, run.step, checkpoint.plain(config)) as logs,
                Progress(config.steps, run.step, label) as progress,
            ):
                _train(run, logs, progress, stop)
    checkpoint.save_json(config.out / "metrics.json", run.summary())
    return run


def _train(run: Run, logs: Logs, progress: Progress, stop: Stop) -> None:
    config, batches, records = run.config, _endless(run.loader), Records(run)
    while run.step < config.steps:
        started = time.perf_counter()
        _train_step(run, _next(run, batches))
        values = run.check.settle() if _is_due(run, config.log.every) else None
        step_seconds = time.perf_counter() - started
        run.seconds += step_seconds
        progress.update()
        if values is not None:
            record = records.of_step(run, values, 1000 * step_seconds)
            logs.write(record)
            progress.show(record, run.evaluations[-1].metrics if run.evaluations else {})
        why = stop.why()
        _evaluate_and_save(run, logs, stopping=why is not None)
        if why is not None and run.step < config.steps:
            raise Stopped(
                f"stopped {why}, after {run.step} of {config.steps} steps; {config.out} has the "
                "checkpoint, and the same command goes on from it"
            )


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
    checkpoints = CheckpointFolder(config.out, config.keep_checkpoints)
    saved = checkpoints.load()
    if saved is not None:
        checkpoint.check_same_run(checkpoints.newest, saved["config"], config)
    device = choose_device(config.device)
    seed_all(config.seed)
    model = checkpoint.new_model(
        config.model, config.loss, scale=config.initial_scale, bias=config.initial_bias
    ).to(device)
    decay = config.optimizer.ema_decay
    run = Run(
        config,
        model,
        build_optimizer(model, config.optimizer),
        build_loader(config, model, device),
        _held_out(config),
        device,
        example_cost(config, model),
        WatchedColumns(config.data.watch_columns),
        None if decay is None else AverageWeights(model, decay),
        checkpoints,
        FiniteCheck(config.out),
    )
    if saved is not None:
        restore(run, saved)
    return run


def _train_step(run: Run, batch: Batch) -> None:
    config = run.config
    run.watched.add(batch)
    run.optimizer.zero_grad(set_to_none=True)
    loss = backward(run.model, to_device(batch, run.device), run.step, config)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.optimizer.clip_norm)
    set_learning_rate(run.optimizer, run.step, config.steps, config.optimizer)
    run.optimizer.step()
    clamp_scale(run.model, config.optimizer.max_scale)
    if run.average is not None:
        run.average.update(run.model)
    run.step += 1
    run.left_out += config.data.batch_size - len(batch["caption"])
    run.check.add(run.step, loss, norm, batch["sample_id"])


def _is_due(run: Run, every: int) -> bool:
    return run.step % every == 0 or run.step == run.config.steps


def _evaluate_and_save(run: Run, logs: Logs, *, stopping: bool) -> None:
    config = run.config
    if run.held_out is not None and _is_due(run, config.eval_every):
        run.check.settle()
        metrics = evaluate(run.model, run.held_out)
        if run.average is not None:
            averaged = evaluate(run.average.model, run.held_out)
            metrics |= {f"ema_{name}": value for name, value in averaged.items()}
        logs.write({"step": run.step, "held_out": metrics})
        stats = run.loader.stats
        selection = None if stats is None else stats.to_dict()
        run.evaluations.append(
            Evaluation(run.step, run.seconds, metrics, selection, run.watched.means())
        )
    if stopping or _is_due(run, config.checkpoint_every):
        run.check.settle()
        logs.flush()
        run.checkpoints.save(run.step, config, state_of(run))
        checkpoint.save_json(config.out / "metrics.json", run.summary())


def _held_out(config: TrainConfig) -> HeldOut | None:
    if config.data.test is None:
        return None
    shards = open_shards(config.data.test, batch_size=1024, shuffle=False, drop_last=False)
    try:
        data = replace(config.data, watch_columns=())
        return HeldOut.read(PreparedSource(shards, Prepare(data, config.model)))
    except BadSamplesError as error:
        places = {place: place for place in error.reasons}  # Prepare names them by place already.
        raise ValueError(
            f"all images of {config.data.test} must be readable to evaluate on them, but not "
            f"{listed(error.reasons, {'sample_id': places})}; mend them, or leave them out of it"
        ) from error


def _next(run: Run, batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except ValueError:
        run.check.settle()  # Weights that are not finite make scores that are none: say so first.
        raise


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
