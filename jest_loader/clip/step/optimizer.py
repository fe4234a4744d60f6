"""The optimizer, its learning rate at each step, and the average of the weights."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jest_loader.clip.models.model import ClipModel


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its learning rate at each step, and an average of the weights."""

    lr: float = 1e-3
    """Peak learning rate."""

    schedule: Literal["cosine", "constant", "cooldown"] = "cosine"
    """After a linear warm-up: a cosine to zero; the peak to the end; or the peak and then, over
    the last cooldown_steps, a line to zero.
    """

    cooldown_steps: int = 0
    """Last steps of the schedule cooldown, in which the learning rate falls to zero."""

    scale_lr_factor: float = 10.0
    """Learning rate of the logit scale and bias, as a multiple of lr: they must travel further."""

    weight_decay: float = 0.1
    """Applied to matrices only, not to biases, norms, scale and bias."""

    warmup_steps: int = 100
    """Steps until the learning rate is at its peak."""

    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of AdamW's averages of the gradient and of its square."""

    eps: float = 1e-8
    """Added to the denominator of AdamW's update."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    max_scale: float | None = None
    """After each step the logit scale is brought back to this (100 in CLIP); None lets it grow."""

    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, evaluated and saved beside them: after
    each step, ema_decay * average + (1 - ema_decay) * weights. None keeps none.
    """

    def check(self, steps: int, initial_scale: float) -> None:
        """Raise ``ValueError`` unless these options suit a run of so many steps."""
        for name in ("lr", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"optimizer.{name} must not be negative, got {getattr(self, name)}"
                )
        for name, decays in (("betas", self.betas), ("ema_decay", (self.ema_decay or 0.0,))):
            if not all(0 <= decay < 1 for decay in decays):
                raise ValueError(
                    f"optimizer.{name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        if self.max_scale is not None and not self.max_scale >= initial_scale:
            raise ValueError(
                "optimizer.max_scale must not be below initial_scale, got "
                f"{self.max_scale:g} and {initial_scale:g}; raise it, or lower initial_scale"
            )
        self._check_cooldown(steps - self.warmup_steps)

    def _check_cooldown(self, steps_left: int) -> None:
        if self.schedule != "cooldown" and self.cooldown_steps != 0:
            raise ValueError(
                "optimizer.cooldown_steps has no effect while optimizer.schedule is "
                f"{self.schedule}; set optimizer.schedule to cooldown"
            )
        if self.schedule == "cooldown" and not 1 <= self.cooldown_steps <= steps_left:
            raise ValueError(
                "optimizer.cooldown_steps must be from 1 to the number of steps after the "
                f"warm-up, got {self.cooldown_steps} and {steps_left}; change it, or train for "
                "more steps"
            )


def build_optimizer(model: ClipModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices, which decay; vectors; and the logit scale and bias."""
    logit, towers = model.logit_parameters(), model.tower_parameters()
    groups = [
        {"params": [p for p in towers if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in towers if p.ndim < 2], "weight_decay": 0.0},
        {"params": logit, "weight_decay": 0.0, "peak_lr": config.lr * config.scale_lr_factor},
    ]
    groups = [{"peak_lr": config.lr, **group} for group in groups]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, steps: int, config: OptimizerConfig
) -> None:
    """Give every group its learning rate at ``step`` of a run of ``steps``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, steps, config)


def schedule(step: int, steps: int, config: OptimizerConfig) -> float:
    """The factor on the peak learning rate at ``step``, counted from 0, of a run of ``steps``.

    Linear warm-up from 1 / warmup_steps, then by ``config.schedule``. What falls to zero would be
    there at ``steps``, after the last step.
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
    """An exponential moving average of the model's weights, which starts from them as they are.

    Args:
        model: The model; ``update_parameters(model)`` moves the average towards its weights.
        decay: Share of the average that stays at each update.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.requires_grad_(requires_grad=False).eval()
    average.update_parameters(model)  # The first update copies; the first step's has to average.
    return average


@torch.no_grad()
def clamp_scale(model: ClipModel, max_scale: float | None) -> None:
    """Bring the model's logit scale back to ``max_scale`` where it is larger."""
    if max_scale is not None:
        model.log_scale.clamp_(max=math.log(max_scale))
