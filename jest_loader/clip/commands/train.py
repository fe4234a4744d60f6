"""``jest-loader train``."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from jest_loader.clip.commands.flags import with_flags
from jest_loader.clip.config.presets import Preset, preset
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.train import train


def train_command(arguments: Sequence[str]) -> Callable[..., TrainConfig]:
    """What tyro calls with the options of training.

    Args:
        arguments: The command line, whose ``--preset`` chooses the defaults.
    """
    import tyro

    chosen, _ = tyro.cli(_Chosen, args=arguments, return_unknown_args=True, add_help=False)
    places = (tyro.MISSING, tyro.MISSING)
    default = (
        TrainConfig(DataConfig(places[0]), places[1])
        if chosen.preset is None
        else preset(chosen.preset, *places)
    )
    typed = _TypedConfig(**vars(default))

    def options(
        config: Annotated[_TypedConfig, tyro.conf.arg(name="")] = typed,
        preset: Preset | None = None,
    ) -> TrainConfig:
        """Train a two-tower CLIP model on selected sub-batches.

        Args:
            config: The options.
            preset: Defaults for the other options. smoke: seconds on a CPU, to see that data can be
                read and trained on. demo: what `jest-loader demo` trains, for grey images of 32
                pixels. single_gpu: Flexi-JEST of a ViT-S/16 of 224 pixels from scratch; needs a
                reference. eight_gpus: the same of a ViT-B/16. siglip2_finetune: a SigLIP 2 ViT-B/16
                of open_clip, half of the candidates chosen, at a low learning rate without weight
                decay; needs its weights (open_clip.checkpoint) and a reference.
        """
        return TrainConfig(**vars(config))

    return options


def run_train_command(config: TrainConfig) -> None:
    """Train, and print one line on how that ended."""
    run = train(config)
    if run.ranks.rank == 0:
        sys.stdout.write(f"{run.describe()}\n")


@dataclass(frozen=True)
class _Chosen:
    preset: Preset | None = None


@dataclass(frozen=True)
class _TypedConfig(TrainConfig):
    """A configuration whose errors, which tyro shows in a frame, name options as they are typed."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            raise ValueError(with_flags(str(error))) from error
