"""The optimizer, its learning rate at each step, and the average of the weights."""

import math
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jest_loader.checks import differ, shown
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.models.model import ClipModel

_SET = {"betas", "eps", "weight_decay"}


def build_optimizer(model: ClipModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices, which decay; vectors; and the logit scale and bias."""
    logit, towers = model.logit_parameters(), model.tower_parameters()
    groups = [
        {"params": [p for p in towers if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in towers if p.ndim < 2], "weight_decay": 0.0},
        {"params": logit, "weight_decay": 0.0, "lr": config.lr * config.logit_lr_factor},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def check_settings(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless ``state`` is of the same settings, but for learning rates.

    What another release of torch does not know may be missing.
    """
    for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for name in own.keys() - {"params", "lr"}:
            is_there = name in saved or name in optimizer.defaults.keys() - _SET
            if not is_there or differ(own[name], saved.get(name, own[name])):
                raise ValueError(
                    f"a checkpoint's optimizer must be set as the run's, but {name} is "
                    f"{shown(saved.get(name))} in place of {own[name]}; name another"
                )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, steps: int, config: OptimizerConfig
) -> None:
    """Give every group its learning rate at ``step`` of a run of ``steps``.

    By hand and not by an ``LRScheduler``: a function of the step has no state to save and restore.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, steps, config)


def schedule(step: int, steps: int, config: OptimizerConfig) -> float:
    """The factor on the peak learning rate at ``step``, counted from 0, of a run of ``steps``.

    Linear warm-up from 1 / warmup_steps, then by ``config.schedule``. Schedules that fall to zero
    reach it at ``steps``, one step after the last.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    match config.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        case "constant":
            return 1.0
        case "cooldown":
            return min(1.0, (steps - step) / config.cooldown_steps)


def average_weights(model: ClipModel, decay: float) -> AveragedModel:
    """An exponential moving average of the model's weights, starting at the present ones.

    Args:
        model: The model; ``update_parameters(model)`` moves the average towards its weights.
        decay: Share of the average that stays at each update.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.requires_grad_(requires_grad=False).eval()
    average.update_parameters(model)  # Its first update copies; the first step must average.
    return average


@torch.no_grad()
def clamp_logit_scale(model: ClipModel, max_logit_scale: float | None) -> None:
    """Lower the model's logit scale to ``max_logit_scale`` if it is larger; None does nothing."""
    if max_logit_scale is not None:
        model.log_scale.clamp_(max=math.log(max_logit_scale))
