"""How a command of this project ends: one line for a mistake that the user can mend."""

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec

from jest_loader.distributed import RankError

_NEEDED = {"tyro": "tyro", "tqdm": "tqdm", "PIL": "pillow"}


class Stopped(Exception):
    """A run was stopped before its end, and saved.

    Args:
        message: Why, and how it goes on.
        rank: Who says so.
    """

    def __init__(self, message: str, rank: int = 0) -> None:
        super().__init__(message)
        self.rank = rank


def run_program(
    command: Callable[[], None], *, after_a_stop: str, as_typed: Callable[[str], str] = str
) -> None:
    """Run a command. A mistake that the user can mend ends it with one line and status 2.

    Args:
        command: Parses the command line, and does what it says.
        after_a_stop: What the same command does after it was interrupted.
        as_typed: Puts options into a message as they are typed.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.exit(
            f"jest-loader's commands need {', '.join(missing)}, which the library does not: "
            "pip install 'jest-loader[all]'"
        )
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        command()
    except (ValueError, FloatingPointError, OSError, RankError) as error:
        sys.stderr.write(f"jest-loader: {as_typed(str(error))}\n")
        sys.exit(2)
    except Stopped as stopped:
        if stopped.rank == 0:
            sys.stdout.write(f"{as_typed(str(stopped))}\n")
    except ModuleNotFoundError as error:
        extra = "wandb" if error.name == "wandb" else "all"  # Which W&B is not in.
        sys.stderr.write(f"jest-loader: {error}; pip install 'jest-loader[{extra}]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"\njest-loader: stopped; the same command {after_a_stop}\n")
        sys.exit(130)
