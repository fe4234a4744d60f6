"""The training loop."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jest_loader.agreement import Agreement
from jest_loader.batch import Batch, to_device
from jest_loader.clip import checkpoint
from jest_loader.clip.config import TrainConfig
from jest_loader.clip.evaluate import evaluate_all, headline
from jest_loader.clip.gradients import backward
from jest_loader.clip.held_out import HeldOut, read_held_out
from jest_loader.clip.held_out_config import held_out_sets
from jest_loader.clip.optimizer import build_optimizer, set_learning_rate
from jest_loader.clip.processes import choose_device, in_ddp, process_group
from jest_loader.clip.selection import build_loader, example_cost, proxy_of
from jest_loader.clip.towers import TwoTower
from jest_loader.clip.watched import WatchedColumns
from jest_loader.cost import ExampleCost
from jest_loader.dataset import JestDataset
from jest_loader.distributed import Ranks
from jest_loader.telemetry import Counts


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics after some steps.

    Args:
        step: Optimizer steps done.
        seconds: Time spent on them, evaluation and checkpoints left out.
        metrics: What ``evaluate_all`` returned.
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
    """A training run: what changes from step to step.

    Over several ranks all have the same model; evaluations are with rank 0. Counts, flops and means
    of watched columns are of all ranks.
    """

    config: TrainConfig
    ranks: Ranks
    model: TwoTower
    in_training: nn.Module
    optimizer: torch.optim.Optimizer
    loader: JestDataset
    held_out: dict[str, HeldOut]
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

    Under torchrun all its processes train together, and only rank 0 evaluates and writes.

    Args:
        config: The run.
        label: Shown beside the progress bar.

    Raises:
        ValueError: if the configuration does not fit the data or an earlier run in the same folder.
        FloatingPointError: if the loss is not finite.
        RankError: if another rank failed.
    """
    device = choose_device(config.device)
    with process_group(device) as ranks:
        agreement = Agreement(ranks)
        with agreement.step("starting"):
            run = _start(config, device, ranks)
        run.in_training = in_ddp(run.model, ranks)
        _train_on(run, label)
        with agreement.step("ending the run"):
            if ranks.rank == 0:
                checkpoint.save_json(config.out / "metrics.json", run.summary())
    return run


def _train_on(run: Run, label: str) -> None:
    """Take the steps that are left."""
    from tqdm import tqdm

    config, is_first = run.config, run.ranks.rank == 0
    batches = _endless(run.loader)
    seconds_between = 0.1 if sys.stderr.isatty() else 10.0  # A log needs fewer lines.
    with tqdm(
        total=config.steps,
        initial=run.step,
        desc=label,
        unit="step",
        mininterval=seconds_between,
        disable=not is_first,
    ) as bar:
        while run.step < config.steps:
            started = time.perf_counter()
            loss = _train_step(run, next(batches))
            run.seconds += time.perf_counter() - started
            bar.update()
            if is_first:
                _evaluate_and_save(run)
                if run.step % 10 == 0:
                    bar.set_postfix(_postfix(run, loss), refresh=False)


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
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "checkpoint.pt"
    saved = checkpoint.load(path) if path.is_file() else None
    if saved is not None:
        checkpoint.check_same_run(path, saved["config"], config)
    torch.manual_seed(config.seed)
    model = checkpoint.new_model(
        config.model, config.loss, scale=config.initial_scale, bias=config.initial_bias
    ).to(device)
    run = Run(
        config,
        ranks,
        model,
        model,
        build_optimizer(model, config.optimizer),
        build_loader(config, model, device),
        _held_out(config) if ranks.rank == 0 else {},
        device,
        example_cost(config, model),
        WatchedColumns(config.data.watch_columns),
    )
    if saved is not None:
        _restore(run, saved)
    return run


def _restore(run: Run, contents: dict[str, Any]) -> None:
    run.model.load_state_dict(contents["model"])
    run.optimizer.load_state_dict(contents["optimizer"])
    run.loader.load_state_dict(contents["loader"])
    if (proxy := proxy_of(run.loader)) is not None:
        proxy.load_state_dict(contents["proxy"])
    run.step, run.seconds = contents["step"], contents["seconds"]
    run.left_out = contents.get("left_out", 0)
    run.watched.load_state_dict(contents.get("watched", {}))
    run.evaluations = [Evaluation(**evaluation) for evaluation in contents["evaluations"]]


def _train_step(run: Run, batch: Batch) -> Tensor:
    """Train on a batch; its loss, []."""
    config = run.config
    run.watched.add(batch, run.ranks)
    run.optimizer.zero_grad(set_to_none=True)
    trained_on = backward(
        run.in_training, to_device(batch, run.device), run.step, config, run.ranks
    )
    nn.utils.clip_grad_norm_(run.model.parameters(), config.optimizer.clip_norm)
    set_learning_rate(run.optimizer, run.step, config)
    run.optimizer.step()
    run.step += 1
    run.left_out += config.data.batch_size - trained_on.num_examples
    return trained_on.loss


def _evaluate_and_save(run: Run) -> None:
    config = run.config
    last = run.step == config.steps
    if run.held_out and (last or run.step % config.eval_every == 0):
        metrics = evaluate_all(run.model, run.held_out)
        stats = run.loader.stats
        selection = None if stats is None else stats.to_dict()
        run.evaluations.append(
            Evaluation(run.step, run.seconds, metrics, selection, run.watched.means())
        )
    if last or run.step % config.checkpoint_every == 0:
        proxy = proxy_of(run.loader)
        contents = {
            "step": run.step,
            "seconds": run.seconds,
            "left_out": run.left_out,
            "watched": run.watched.state_dict(),
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "loader": run.loader.state_dict(),
            "proxy": None if proxy is None else proxy.state_dict(),
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
        shown["held-out"] = f"{next(iter(run.evaluations[-1].metrics.values())):.1%}"
    return shown


def _held_out(config: TrainConfig) -> dict[str, HeldOut]:
    data = config.data
    sets = held_out_sets(data.test, data.image_column, data.caption_column, config.evaluation)
    return {name: read_held_out(one, config.model) for name, one in sets.items()}


def _endless(loader: JestDataset) -> Iterator[Batch]:
    while True:
        yield from loader
