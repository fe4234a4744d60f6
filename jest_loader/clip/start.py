"""From the configuration to a run: a new one, or one that goes on from its checkpoint."""

import logging
from typing import Any

import torch

from jest_loader.checks import shown
from jest_loader.clip.config.held_out import held_out_sets
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.cost import run_cost
from jest_loader.clip.evaluation.held_out import HeldOut, read_held_out
from jest_loader.clip.loading.build import build_loader
from jest_loader.clip.loading.reference import reference_of
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.clip.run import Run
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.clip.step.finite_check import FiniteCheck
from jest_loader.clip.step.generators import seed_all
from jest_loader.clip.step.optimizer import average_weights, build_optimizer
from jest_loader.clip.step.trained_rows import TrainedRows
from jest_loader.clip.step.watched import WatchedColumns
from jest_loader.ranks.ranks import Ranks

_LOG = logging.getLogger(__name__)


def start_run(config: TrainConfig, device: torch.device, ranks: Ranks) -> Run:
    """The run in ``config.out``, at the step of its newest checkpoint if there is one.

    Raises:
        ValueError: if the configuration does not fit the data or the run that the folder holds.
    """
    checkpoints = CheckpointFolder(config.out, config.keep_checkpoints)
    saved = checkpoints.load()
    if saved is not None:
        checkpoint.check_same_run(checkpoints.newest, saved, config)
    if config.optimizer.warmup_steps >= config.steps and ranks.rank == 0:
        _LOG.warning(
            "optimizer.warmup_steps is %d of %d steps: the learning rate does not reach its peak",
            config.optimizer.warmup_steps,
            config.steps,
        )
    seed_all(config.seed)
    model = _new_model(config, resuming=saved is not None).to(device)
    fit = None if saved is None else checkpoint.calibration_of(saved)
    loader = build_loader(config, model, device, fit)
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
        cost=run_cost(config, model),
        watched=WatchedColumns(config.data.watch_columns),
        trained_rows=TrainedRows(),
        average=None if decay is None else average_weights(model, decay),
        reference=reference_of(config, loader),
        checkpoints=checkpoints,
        check=FiniteCheck(config.out, ranks.rank),
    )
    if saved is not None:
        _go_on(run, saved)
    return run


def _go_on(run: Run, saved: dict[str, Any]) -> None:
    try:
        run.load_state_dict(saved)
    except ValueError as error:
        raise ValueError(f"{run.checkpoints.newest}: {error}") from error
    except Exception as error:  # What is in the file may be anything.
        raise ValueError(
            f"{run.checkpoints.newest} must be a checkpoint of this run, but it cannot go on from "
            f"it ({type(error).__name__}: {shown(error)}); choose another folder, or delete it"
        ) from error


def _new_model(config: TrainConfig, *, resuming: bool) -> ClipModel:
    architecture = trained_architecture(config)
    model = (
        architecture.empty(config.loss)
        if resuming
        else architecture.build(
            config.loss,
            logit_scale=config.initial_logit_scale,
            logit_bias=config.initial_logit_bias,
        )
    )
    if config.checkpoint_activations:
        model.checkpoint_activations()
    if config.compile:
        model.compile_towers()
    return model


def _held_out(config: TrainConfig) -> dict[str, HeldOut]:
    data = config.data
    sets = held_out_sets(data.test, data.image_column, data.caption_column, config.evaluation)
    return {name: read_held_out(one, trained_architecture(config)) for name, one in sets.items()}
