"""The training loop."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from jest_loader.batch import Batch, to_device
from jest_loader.clip.config.held_out import held_out_sets
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.evaluation.evaluate import evaluate_all, headline
from jest_loader.clip.evaluation.held_out import HeldOut, read_held_out
from jest_loader.clip.journal.logs import Logs, open_logs
from jest_loader.clip.journal.progress import Progress
from jest_loader.clip.journal.records import Evaluation, Records
from jest_loader.clip.journal.watched import WatchedColumns
from jest_loader.clip.loading.build import build_loader, example_cost
from jest_loader.clip.loading.reference import reference_of
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.processes import choose_device, in_ddp, process_group
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.clip.saving.run_state import restore, state_of
from jest_loader.clip.step.average import AverageWeights
from jest_loader.clip.step.finite_check import FiniteCheck
from jest_loader.clip.step.gradients import backward
from jest_loader.clip.step.optimizer import build_optimizer, clamp_scale, set_learning_rate
from jest_loader.clip.step.random_generators import seed_all
from jest_loader.clip.stop import Stop, Stopped
from jest_loader.cost.flops import ExampleCost
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.telemetry import Counts, SelectionStats
from jest_loader.ops.noise import fold
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.ranks import Ranks

_LOG = logging.getLogger(__name__)


@dataclass
class Run:
    """A training run: what changes from step to step.

    Over several ranks all have the same model; evaluations are with rank 0. Counts, flops and means
    of watched columns are of all ranks.
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
    average: AverageWeights | None
    reference: str | None
    checkpoints: CheckpointFolder
    check: FiniteCheck
    step: int = 0
    seconds: float = 0.0
    left_out: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)

    def is_due(self, every: int, *, ahead: int = 0) -> bool:
        """Whether what is done each so many steps, and at the end, is due so many steps ahead."""
        step = self.step + ahead
        return step % every == 0 or step == self.config.steps

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

    Under torchrun all its processes train together, and only rank 0 evaluates and writes.

    Args:
        config: The run.
        label: Shown beside the progress bar.

    Raises:
        ValueError: if the configuration does not fit the data or an earlier run in the same folder.
        FloatingPointError: if a loss or gradient is not finite; what was saved is from before.
        Stopped: if the run was saved before its end, because of SIGTERM or ``config.max_seconds``.
        RankError: if another rank failed.
    """
    device = choose_device(config.device)
    with Stop(config.max_seconds) as stop, process_group(device) as ranks:
        agreement = Agreement(ranks)
        with agreement.step("starting"):
            run = _start(config, device, ranks)
        run.in_training = in_ddp(run.model, ranks)  # All ranks wait for each other there.
        if run.step < config.steps:
            shown = ranks.rank == 0
            with _logs(run) as logs, Progress(config.steps, run.step, label, shown=shown) as bar:
                _train(run, logs, bar, stop)
        with agreement.step("ending the run"):
            if ranks.rank == 0:
                checkpoint.save_json(config.out / "metrics.json", run.summary())
        run.in_training = run.model  # DDP keeps the group's threads, which must end before Python.
    return run


def _train(run: Run, logs: Logs, progress: Progress, stop: Stop) -> None:
    config, batches, records = run.config, _endless(run.loader), Records(run)
    while run.step < config.steps:
        if run.is_due(config.log.every, ahead=1):
            run.check.settle()  # The time of a step that is logged is to be its own.
        started = time.perf_counter()
        _train_step(run, _next(run, batches))
        why = _why(run, stop)
        writes, evaluates = run.is_due(config.log.every), run.is_due(config.eval_every)
        saves = run.is_due(config.checkpoint_every) or why is not None
        values = run.check.settle() if writes or evaluates or saves else None
        step_seconds = time.perf_counter() - started
        run.seconds += step_seconds
        progress.update()
        if run.ranks.rank == 0 and (writes or evaluates):
            stats = run.loader.stats
            assert values is not None
            assert stats is not None, "a step is done"
            if writes:
                record = records.of_step(run, values, stats, 1000 * step_seconds)
                logs.write(record)
                progress.show(record, run.evaluations[-1].metrics if run.evaluations else {})
            if evaluates and run.held_out:
                _evaluate(run, stats, logs)
        if saves and run.ranks.rank == 0:
            logs.flush()
            run.checkpoints.save(run.step, config, state_of(run))
            checkpoint.save_json(config.out / "metrics.json", run.summary())
        if why is not None and run.step < config.steps:
            raise Stopped(
                f"stopped {why}, after {run.step} of {config.steps} steps; {config.out} has the "
                "checkpoint, and the same command goes on from it",
                run.ranks.rank,
            )


def describe(run: Run) -> str:
    """One line on how a run ended, and where it is."""
    measured = ""
    if run.evaluations:
        measured = f"; held out: {headline(run.evaluations[-1].metrics)}"
    return (
        f"{run.step} steps with {run.config.selection.selector} selection in {run.seconds:.0f} s"
        f"{measured}; "
        f"{run.config.out} has checkpoint.pt and metrics.json"
    )


def _start(config: TrainConfig, device: torch.device, ranks: Ranks) -> Run:
    checkpoints = CheckpointFolder(config.out, config.keep_checkpoints)
    saved = checkpoints.load()
    if saved is not None:
        checkpoint.check_same_run(checkpoints.newest, saved["config"], config)
    if config.optimizer.warmup_steps >= config.steps and ranks.rank == 0:
        _LOG.warning(
            "optimizer.warmup_steps is %d of %d steps: the learning rate does not reach its peak",
            config.optimizer.warmup_steps,
            config.steps,
        )
    seed_all(config.seed)
    model = _new_model(config, resuming=saved is not None).to(device)
    loader = build_loader(config, model, device)
    decay = config.optimizer.ema_decay
    run = Run(
        config=config,
        ranks=ranks,
        model=model,
        in_training=model,
        optimizer=build_optimizer(model, config.optimizer),
        loader=loader,
        held_out=_held_out(config) if ranks.rank == 0 else {},
        device=device,
        cost=example_cost(config, model),
        watched=WatchedColumns(config.data.watch_columns),
        average=None if decay is None else AverageWeights(model, decay),
        reference=reference_of(config, loader),
        checkpoints=checkpoints,
        check=FiniteCheck(config.out, ranks.rank),
    )
    if saved is not None:
        restore(run, saved)
    return run


def _new_model(config: TrainConfig, *, resuming: bool) -> ClipModel:
    architecture = config.architecture
    model = (
        architecture.empty(config.loss)
        if resuming
        else architecture.build(
            config.loss, logit_scale=config.initial_scale, logit_bias=config.initial_bias
        )
    )
    if config.checkpoint_activations:
        model.checkpoint_activations()
    if config.compile:
        model.compile_towers()
    return model


def _why(run: Run, stop: Stop) -> str | None:
    """Why to stop now, or None: all ranks stop after the same step."""
    why = stop.why()
    if run.ranks.size == 1:
        return why
    any_stops = bool(run.ranks.all_gather(torch.tensor(why is not None)).any())
    return why or ("with another process" if any_stops else None)


def _logs(run: Run) -> AbstractContextManager[Logs]:
    """Rank 0's; those of others write nothing."""
    config = run.config
    if run.ranks.rank > 0:
        return nullcontext(Logs())
    return open_logs(config.log, config.out, run.step, checkpoint.plain(config))


def _train_step(run: Run, batch: Batch) -> None:
    config = run.config
    seed_all(fold(config.seed, run.step, run.ranks.rank))  # So that no state need be saved.
    run.watched.add(batch, run.ranks)
    run.optimizer.zero_grad(set_to_none=True)
    trained_on = backward(
        run.in_training, to_device(batch, run.device), run.step, config, run.ranks
    )
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.optimizer.clip_norm)
    set_learning_rate(run.optimizer, run.step, config.steps, config.optimizer)
    run.optimizer.step()
    clamp_scale(run.model, config.optimizer.max_scale)
    if run.average is not None:
        run.average.update(run.model)
    run.step += 1
    run.left_out += config.data.batch_size - trained_on.num_examples
    run.check.add(run.step, trained_on.loss, norm, batch["sample_id"])


def _evaluate(run: Run, stats: SelectionStats, logs: Logs) -> None:
    metrics = evaluate_all(run.model, run.held_out)
    if run.average is not None:
        metrics |= evaluate_all(run.average.model, run.held_out, prefix="ema_")
    logs.write({"step": run.step, "held_out": metrics})
    run.evaluations.append(
        Evaluation(run.step, run.seconds, metrics, stats.to_dict(), run.watched.means())
    )


def _held_out(config: TrainConfig) -> dict[str, HeldOut]:
    data = config.data
    sets = held_out_sets(data.test, data.image_column, data.caption_column, config.evaluation)
    return {name: read_held_out(one, config.architecture) for name, one in sets.items()}


def _next(run: Run, batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except ValueError:
        run.check.settle()  # Weights that are not finite make scores that are none: say so first.
        raise


def _endless(loader: JestDataset) -> Iterator[Batch]:
    while True:
        yield from loader
