"""The training loop: select, step, and now and then log, evaluate and save."""

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from jest_loader.batch import Batch, to_device
from jest_loader.clip.config.options import plain
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.evaluation.evaluate import evaluate_all
from jest_loader.clip.journal.logs import Logs, open_logs
from jest_loader.clip.journal.progress import Progress
from jest_loader.clip.journal.records import Records
from jest_loader.clip.models.inputs import CONTENT
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.processes import choose_device, in_ddp, process_group
from jest_loader.clip.run import Evaluation, Run
from jest_loader.clip.start import start_run
from jest_loader.clip.step.generators import seed_all
from jest_loader.clip.step.gradients import backward
from jest_loader.clip.step.optimizer import clamp_logit_scale, set_learning_rate
from jest_loader.clip.stop import Stop, Stopped
from jest_loader.files import save_json
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.telemetry import SelectionStats
from jest_loader.ops.noise import fold
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.roll_call import naming_ranks


def train(config: TrainConfig, *, label: str = "training") -> Run:
    """Train to ``config.steps``, going on from the checkpoint in ``config.out`` if there is one.

    Under torchrun all its processes train together, and only rank 0 evaluates and writes.

    Args:
        config: The run.
        label: Shown beside the progress bar.

    Raises:
        ValueError: if the configuration does not fit the data or an earlier run in the same folder.
        FloatingPointError: if a loss or gradient is not finite; what was saved is from before.
        Stopped: if the run was saved before its end, because of SIGTERM, Ctrl-C or
            ``config.max_seconds``.
        RankError: if another rank failed.
    """
    device = choose_device(config.device)
    with (
        warnings.catch_warnings(),
        Stop(config.max_seconds) as stop,
        process_group(device, config.rank_timeout_s) as ranks,
    ):
        # The scale of a model of ours is exp of its parameter, however small it gets.
        warnings.filterwarnings("ignore", "the learner's logit_scale is below")
        agreement = Agreement(ranks)
        with agreement.step("starting"):
            run = start_run(config, device, ranks)
        with naming_ranks():
            run.in_training = in_ddp(run.model, ranks)  # All ranks wait for each other there.
        if not run.finished:
            shown = ranks.rank == 0
            with _logs(run) as logs, Progress(config.steps, run.step, label, shown=shown) as bar:
                _train(run, logs, bar, stop)
        with agreement.step("ending the run"):
            if ranks.rank == 0:
                save_json(config.out / "metrics.json", run.summary())
        run.in_training = run.model  # DDP keeps the group's threads, which must end before Python.
    return run


def _train(run: Run, logs: Logs, progress: Progress, stop: Stop) -> None:
    config, batches, records = run.config, _endless(run.loader), Records(run)
    while not run.finished:
        if run.is_due(config.log.every, ahead=1):
            run.check.settle()  # The time of a step that is logged is to be its own.
        started = time.perf_counter()
        _train_step(run, _next(run, batches))
        reason = _reason_to_stop(run, stop)
        writes, evaluates = run.is_due(config.log.every), run.is_due(config.eval_every)
        saves = run.is_due(config.checkpoint_every) or reason is not None
        if saves:
            with naming_ranks():
                run.trained_rows.gather(run.ranks)
        values = run.check.settle() if writes or evaluates or saves else None
        step_seconds = time.perf_counter() - started
        run.seconds += step_seconds
        progress.update()
        if run.ranks.rank == 0 and values is not None:
            stats = run.loader.stats
            assert stats is not None, "a step is done"
            if writes:
                record = records.of_step(run, values, stats, 1000 * step_seconds)
                logs.write(record)
                progress.show(record, run.evaluations[-1].metrics if run.evaluations else {})
            if evaluates and run.held_out:
                _evaluate(run, stats, logs)
            if saves:
                _save(run, logs)
        if reason is not None and not run.finished:
            raise Stopped(
                f"stopped {reason}, after {run.step} of {config.steps} steps; {config.out} has the "
                "checkpoint, and the same command goes on from it",
                run.ranks.rank,
                stop.status,
            )


def _train_step(run: Run, batch: Batch) -> None:
    config = run.config
    seed_all(fold(config.seed, run.step, run.ranks.rank))  # So that no state need be saved.
    run.watched.add(batch, run.ranks)
    run.optimizer.zero_grad(set_to_none=True)
    with naming_ranks():
        loss = backward(run.in_training, to_device(batch, run.device), run.step, config, run.ranks)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.optimizer.clip_norm)
    set_learning_rate(run.optimizer, run.step, config.steps, config.optimizer)
    run.optimizer.step()
    clamp_logit_scale(run.model, config.optimizer.max_logit_scale)
    if run.average is not None:
        run.average.update_parameters(run.model)
    run.step += 1
    run.trained_rows.add(batch[CONTENT])
    run.check.add(run.step, loss, norm, batch["sample_id"])


def _next(run: Run, batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except ValueError:
        run.check.settle()  # Weights that are not finite make scores that are none: say so first.
        raise


def _endless(loader: JestDataset) -> Iterator[Batch]:
    """One epoch after another."""
    while True:
        yield from loader


def _reason_to_stop(run: Run, stop: Stop) -> str | None:
    """Why to stop now, or None: all ranks stop after the same step."""
    why = stop.why()
    if run.ranks.size == 1:
        return why
    any_stops = bool(run.ranks.all_gather(torch.tensor(why is not None)).any())
    return why or ("with another process" if any_stops else None)


def _evaluate(run: Run, stats: SelectionStats, logs: Logs) -> None:
    metrics = evaluate_all(run.model, run.held_out)
    if run.average is not None:
        average = run.average.module
        assert isinstance(average, ClipModel)
        metrics |= evaluate_all(average, run.held_out, prefix="ema_")
    logs.write({"step": run.step, "held_out": metrics})
    run.evaluations.append(
        Evaluation(run.step, run.seconds, metrics, stats.to_dict(), run.watched.means())
    )


def _save(run: Run, logs: Logs) -> None:
    logs.flush()
    run.checkpoints.save(run.step, run.config, run.state_dict())
    save_json(run.config.out / "metrics.json", run.summary())


def _logs(run: Run) -> AbstractContextManager[Logs]:
    """The logs of rank 0; other ranks write nothing."""
    config = run.config
    if run.ranks.rank > 0:
        return nullcontext(Logs())
    return open_logs(config.log, config.out, run.step, plain(config))
