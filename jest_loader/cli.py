"""The command ``jest-loader``: demo, train, evaluate, pack, cache, and what belongs to them.

``python -m jest_loader.cli`` is the same, as launchers of several processes want it.
"""

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

_NEEDED = {"tyro": "tyro", "tqdm": "tqdm", "PIL": "pillow"}


def main() -> None:
    """The command line. A mistake that the user can mend ends it with one line and status 2."""
    try:
        _main()
    except KeyboardInterrupt:  # Also while torch is imported.
        sys.stderr.write(
            "\njest-loader: stopped; the same command goes on (train, demo, cache) or starts over "
            "(evaluate, pack, verify-cache, export-open-clip)\n"
        )
        sys.exit(130)


def _main() -> None:
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.exit(
            f"jest-loader's commands need {', '.join(missing)}, which the library does not: "
            "pip install 'jest-loader[all]'"
        )
    from jest_loader.checks import shown
    from jest_loader.clip.journal.screen import screen_handler
    from jest_loader.clip.stop import Stopped
    from jest_loader.ranks.roll_call import RankError

    logging.basicConfig(handlers=[screen_handler()])
    try:
        _run()
    except (ValueError, FloatingPointError, OSError, RankError) as error:
        sys.stderr.write(f"jest-loader: {shown(_as_typed(str(error)), most=4000)}\n")
        sys.exit(2)
    except Stopped as stopped:
        if stopped.rank == 0:
            sys.stdout.write(f"{_as_typed(str(stopped))}\n")
        sys.exit(stopped.status)
    except ModuleNotFoundError as error:
        extra = "wandb" if error.name == "wandb" else "all"  # Which W&B is not in.
        sys.stderr.write(f"jest-loader: {error}; pip install 'jest-loader[{extra}]'\n")
        sys.exit(2)


def _as_typed(message: str) -> str:
    """The trainer's messages name options as fields."""
    if sys.argv[1:2] != ["train"]:
        return message
    from jest_loader.clip.commands.flags import with_flags

    return with_flags(message)


def _run() -> None:
    import tyro

    commands = _commands()
    config = tyro.extras.subcommand_cli_from_dict(
        {name: options for name, (_, options, _) in commands.items()},
        prog="jest-loader",
        description="Joint example selection: train on the sub-batches most worth learning.",
    )
    (run,) = (run for kind, _, run in commands.values() if isinstance(config, kind))
    run(config)


def _commands() -> dict[str, tuple[type, Callable[..., Any], Callable[[Any], object]]]:
    """The configuration of each command, what tyro makes it of, and what runs it."""
    from jest_loader.clip.commands.cache import (
        CacheConfig,
        VerifyConfig,
        cache_command,
        verify_command,
    )
    from jest_loader.clip.commands.evaluate import EvaluateConfig, evaluate_command
    from jest_loader.clip.commands.export import ExportConfig, export_command
    from jest_loader.clip.commands.train import run_train_command, train_command
    from jest_loader.clip.config.train import TrainConfig
    from jest_loader.cost.estimate import CostConfig
    from jest_loader.cost.estimate import describe as describe_cost
    from jest_loader.demo.run import DemoConfig, run_demo
    from jest_loader.pack import PackConfig, pack_command

    return {
        "demo": (DemoConfig, DemoConfig, run_demo),
        "train": (TrainConfig, train_command(sys.argv[1:]), run_train_command),
        "evaluate": (EvaluateConfig, EvaluateConfig, _printing(evaluate_command)),
        "pack": (PackConfig, PackConfig, pack_command),
        "cache": (CacheConfig, CacheConfig, _printing(cache_command)),
        "verify-cache": (VerifyConfig, VerifyConfig, _printing(verify_command)),
        "export-open-clip": (ExportConfig, ExportConfig, _printing(export_command)),
        "cost": (CostConfig, CostConfig, _printing(describe_cost)),
    }


def _printing(command: Callable[[Any], str]) -> Callable[[Any], None]:
    return lambda config: print(command(config))


if __name__ == "__main__":
    main()
