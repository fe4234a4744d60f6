"""Event files for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jest_loader.clip.journal.numbers import numbers


class TensorBoardLog:
    """Writes the numbers of records as scalars; a context manager.

    Args:
        path: The folder of the event files.
        step: Steps done. TensorBoard drops what earlier files have of later steps.

    Raises:
        ModuleNotFoundError: if tensorboard is not installed.
    """

    def __init__(self, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(path, purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a scalar for each number except the step; nested ones are named ``outer/inner``."""
        for name, value in numbers(record).items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def flush(self) -> None:
        """Hand the events to the operating system, which keeps them if the process dies."""
        self._writer.flush()
