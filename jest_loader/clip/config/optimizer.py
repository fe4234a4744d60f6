"""Options of the optimizer."""

from dataclasses import dataclass
from typing import Literal


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

    logit_lr_factor: float = 10.0
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

    max_logit_scale: float | None = None
    """After each step the logit scale is brought back to this (100 in CLIP); None lets it grow."""

    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, evaluated and saved beside them: after
    each step, ema_decay * average + (1 - ema_decay) * weights. None keeps none.
    """

    def check(self, steps: int, initial_logit_scale: float) -> None:
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
        if self.max_logit_scale is not None and not self.max_logit_scale >= initial_logit_scale:
            raise ValueError(
                "optimizer.max_logit_scale must not be below initial_logit_scale, got "
                f"{self.max_logit_scale:g} and {initial_logit_scale:g}; raise the first, or lower "
                "the second"
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
