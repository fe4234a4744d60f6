"""``python -m jest_loader.clip``: the same as ``jest-loader train``."""

import sys

from jest_loader.program import run_program


def _run() -> None:
    import tyro

    from jest_loader.clip.presets import train_command
    from jest_loader.clip.train import describe, train

    command = tyro.cli(train_command(sys.argv[1:]), prog="python -m jest_loader.clip")
    sys.stdout.write(describe(train(command.config)) + "\n")


if __name__ == "__main__":
    run_program(_run, after_a_stop="goes on")
