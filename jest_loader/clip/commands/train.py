"""``jest-loader train`` and ``python -m jest_loader.clip``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, get_args

from jest_loader.clip.commands.flags import with_flags
from jest_loader.clip.config.presets import Preset, preset
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.train import train


def train_command(arguments: Sequence[str]) -> Any:
    """What tyro parses the options of training into; ``config`` of it is the ``TrainConfig``.

    Args:
        arguments: The command line, whose ``--preset`` chooses the defaults.
    """
    import tyro

    chosen = _chosen(arguments)
    places = (tyro.MISSING, tyro.MISSING)
    options = preset(chosen, *places) if chosen else TrainConfig(DataConfig(places[0]), places[1])
    default = _Options(**{each.name: getattr(options, each.name) for each in fields(options)})

    # A docstring of a field is its help, so all of this has to stand here.
    @dataclass(frozen=True)
    class Train:
        """Train a two-tower CLIP model on selected sub-batches."""

        config: Annotated[_Options, tyro.conf.arg(name="")] = default

        preset: Preset | None = None
        """Defaults for the other options. smoke: seconds on a CPU, to see that data can be read and
        trained on. demo: what `jest-loader demo` trains, for grey images of 32 pixels. single_gpu:
        Flexi-JEST of a ViT-S/16 of 224 pixels from scratch; needs a reference. eight_gpus: the same
        of a ViT-B/16. siglip2_finetune: a SigLIP 2 ViT-B/16 of open_clip, half of the candidates
        left out, at a low learning rate without weight decay; needs its weights
        (open_clip.checkpoint) and a reference.
        """

    return Train


def run_train_command(command: Any) -> None:
    """Train, and print one line on how that ended.

    Args:
        command: What tyro made of ``train_command``.
    """
    run = train(command.config)
    if run.ranks.rank == 0:
        sys.stdout.write(f"{run.describe()}\n")


@dataclass(frozen=True)
class _Options(TrainConfig):
    """Train a two-tower CLIP model on selected sub-batches."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:  # Shown by tyro, in a frame of its own.
            raise ValueError(with_flags(str(error))) from error


def _chosen(arguments: Sequence[str]) -> Preset | None:
    """The preset that the command line names; tyro says what is wrong with a name that is none."""
    given = [word for argument in arguments for word in argument.split("=", 1)]
    named = [word for option, word in pairwise(given) if option == "--preset"]
    return next((name for name in get_args(Preset) if name in named[-1:]), None)
