"""``jest-loader demo | train | evaluate | pack | cache | verify-cache | cost``."""

import logging
import os
import sys
from importlib.util import find_spec

from jest_loader.clip.stop import Stopped
from jest_loader.distributed import RankError

_NEEDED = {"tyro": "tyro", "tqdm": "tqdm", "PIL": "pillow"}


def main() -> None:
    """The command line. A mistake that the user can mend ends it with one line and status 2."""
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.exit(
            f"jest-loader's commands need {', '.join(missing)}, which the library does not: "
            "pip install 'jest-loader[all]'"
        )
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        _run()
    except (ValueError, FloatingPointError, OSError, RankError) as error:
        sys.stderr.write(f"jest-loader: {_as_typed(error)}\n")
        sys.exit(2)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(_as_typed(stopped))
    except ModuleNotFoundError as error:
        sys.stderr.write(f"jest-loader: {error}; pip install 'jest-loader[all]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(
            "\njest-loader: stopped; the same command goes on (train, demo, cache) or starts "
            "over (evaluate, pack, verify-cache)\n"
        )
        sys.exit(130)


def _as_typed(error: Exception) -> str:
    """Its message, which names options of the trainer as fields, with flags in their places."""
    if sys.argv[1:2] != ["train"]:
        return str(error)
    from jest_loader.clip.flags import with_flags

    return with_flags(str(error))


def _run() -> None:
    import tyro

    from jest_loader.clip.cache_command import (
        CacheConfig,
        VerifyConfig,
        cache_command,
        verify_command,
    )
    from jest_loader.clip.evaluate_command import EvaluateConfig, evaluate_command
    from jest_loader.clip.flags import TrainCommand
    from jest_loader.clip.train import describe, train
    from jest_loader.demo.run import DemoConfig, run_demo
    from jest_loader.estimate import CostConfig
    from jest_loader.estimate import describe as describe_cost
    from jest_loader.pack import PackConfig, pack_command

    config = tyro.extras.subcommand_cli_from_dict(
        {
            "demo": DemoConfig,
            "train": TrainCommand,
            "evaluate": EvaluateConfig,
            "pack": PackConfig,
            "cache": CacheConfig,
            "verify-cache": VerifyConfig,
            "cost": CostConfig,
        },
        prog="jest-loader",
        description="Joint example selection: train on the sub-batches most worth learning.",
    )
    match config:
        case DemoConfig():
            run_demo(config)
        case TrainCommand():
            run = train(config)
            if run.ranks.rank == 0:
                print(describe(run))
        case EvaluateConfig():
            print(evaluate_command(config))
        case PackConfig():
            pack_command(config)
        case CacheConfig():
            print(cache_command(config))
        case VerifyConfig():
            print(verify_command(config))
        case CostConfig():
            print(describe_cost(config))


if __name__ == "__main__":
    main()
