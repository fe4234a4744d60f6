"""``python -m jest_loader.adapters.open_clip``: the options, and the trainer between them."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jest_loader.adapters.open_clip.files import check_csv, read_checkpoint
from jest_loader.adapters.open_clip.options import check_together, is_csv, parse
from jest_loader.adapters.open_clip.reference import Named
from jest_loader.adapters.open_clip.run import Run, one_sentence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``open_clip_train`` with selection.

    Args:
        arguments: Options of selection, ``--``, and the trainer's own; None takes the command line.

    Raises:
        SystemExit: for a mistake that can be mended, with one sentence.
    """
    options, words = parse(sys.argv[1:] if arguments is None else arguments)
    trainer = _trainer()
    args = trainer.parse_args(words)
    with one_sentence():
        check_together(options, args)
        named = None if options.reference is None else Named.parse(options.reference)
        for path in (args.train_data, args.val_data):
            if is_csv(path, args):
                check_csv(path, args)
    own = trainer.get_data, trainer.train_one_epoch, trainer.pt_load
    run = Run(options, named, *own[:2])
    trainer.get_data, trainer.train_one_epoch = run.get_data, run.train_one_epoch
    trainer.pt_load = _in_one_sentence(trainer.pt_load)
    try:
        status = trainer.main(words)
    finally:
        trainer.get_data, trainer.train_one_epoch, trainer.pt_load = own
    if status == -1:  # It has said why.
        sys.exit(1)


def _in_one_sentence(pt_load: Callable[..., Any]) -> Callable[..., Any]:
    def load(path: str, **keywords: Any) -> Any:
        with one_sentence():
            return read_checkpoint(pt_load, path, **keywords)

    return load


def _trainer() -> Any:
    try:
        import open_clip_train.main as trainer
    except ModuleNotFoundError as error:
        sys.exit(
            f"jest-loader: open_clip_train cannot be imported ({error}); pip install "
            "'open_clip_torch[training]>=3.3'"
        )
    return trainer
