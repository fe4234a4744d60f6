"""Options of what is written down while training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LogConfig:
    """What is written down while training, besides metrics.json."""

    every: int = 10
    """Steps between lines of log.jsonl, each of which waits for the GPU once."""

    tensorboard: bool = False
    """Also write event files for TensorBoard to OUT/tensorboard."""

    wandb: str | None = None
    """Also log to this project of Weights & Biases; a run that goes on is the same run there."""
