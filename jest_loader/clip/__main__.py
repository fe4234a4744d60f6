"""``python -m jest_loader.clip``: the same as ``jest-loader train``."""

import sys

from jest_loader.program import run_program


def _run() -> None:
    import tyro

    from jest_loader.clip.commands.train import run_train_command, train_command

    run_train_command(tyro.cli(train_command(sys.argv[1:]), prog="python -m jest_loader.clip"))


def _with_flags(message: str) -> str:
    from jest_loader.clip.commands.flags import with_flags

    return with_flags(message)


if __name__ == "__main__":
    run_program(_run, after_a_stop="goes on", as_typed=_with_flags)
