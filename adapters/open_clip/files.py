"""The trainer's files: what is wrong with a csv or a checkpoint, in a sentence."""

from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

from jest_loader.checks import shown


def check_csv(path: str, args: Any) -> None:
    """Read the first row of a csv as the trainer will.

    Args:
        path: The csv.
        args: The trainer's arguments.

    Raises:
        ValueError: if it cannot be read, has no rows or lacks a column.
    """
    import pandas as pd

    try:
        first = pd.read_csv(path, sep=args.csv_separator, nrows=1)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{shown(path)} must be a csv with a header line, but cannot be read: {shown(error)}; "
            "check --train-data and --val-data"
        ) from error
    needed = {"--csv-img-key": args.csv_img_key, "--csv-caption-key": args.csv_caption_key}
    for option, column in needed.items():
        if column not in first.columns:
            raise ValueError(
                f"{shown(path)} must have the column {shown(column)} that {option} names, got "
                f"{shown(list(first.columns))} as --csv-separator {args.csv_separator!r} parts "
                "them; set one of the two options"
            )
    if first.empty:
        raise ValueError(f"{shown(path)} must have rows below its header line, got none")


def num_without_caption(rows: Any) -> int:
    """How many rows of the trainer's ``CsvDataset`` have a caption that pandas takes for none."""
    return sum(caption != caption for caption in rows.captions)


def read_checkpoint(read: Callable[..., Any], path: str, **keywords: Any) -> Any:
    """As ``read``, the trainer's own.

    Raises:
        ValueError: if the file is no checkpoint, or was not saved to its end.
    """
    try:
        return read(path, **keywords)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        raise ValueError(
            f"{shown(path)} must be a checkpoint that was saved to its end, but cannot be read: "
            f"{shown(str(error).partition('.')[0])}; delete it, and --resume latest goes on from "
            "the one before (--save-most-recent keeps one that is always whole)"
        ) from error
