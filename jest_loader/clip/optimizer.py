"""The optimizer, and its learning rate at each step."""

import math

import torch

from jest_loader.clip.config import OptimizerConfig, TrainConfig
from jest_loader.clip.model import ClipModel


def build_optimizer(model: ClipModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices, which decay; vectors; and the logit scale and bias."""
    logit, towers = model.logit_parameters(), model.tower_parameters()
    groups = [
        {"params": [p for p in towers if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in towers if p.ndim < 2], "weight_decay": 0.0},
        {"params": logit, "weight_decay": 0.0, "peak_lr": config.lr * config.scale_lr_factor},
    ]
    groups = [{"peak_lr": config.lr, **group} for group in groups]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Give every group its learning rate at ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, config)


def schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to zero, as a factor on the peak learning rate."""
    warmup = config.optimizer.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))
