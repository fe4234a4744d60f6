"""A run in Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from jest_loader.clip.journal.numbers import numbers
from jest_loader.clip.stop import Stopped
from jest_loader.files import replacing


class WandbLog:
    """Logs the numbers of records; a context manager.

    The run's id is kept in ``wandb_id.txt``, so that a run that goes on continues the same run in
    W&B, which ignores records of steps that it has already.

    Args:
        project: The project's name.
        out: The run's folder, which names the run.
        config: The run's configuration, as JSON values.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
    """

    def __init__(self, project: str, out: Path, config: dict[str, Any]) -> None:
        import wandb

        path = out / "wandb_id.txt"
        if not path.is_file():
            with replacing(path) as part:
                part.write_text(uuid4().hex[:12] + "\n")
        self._run = wandb.init(
            project=project,
            id=path.read_text().strip(),
            resume="allow",
            name=out.resolve().name,
            dir=str(out),
            config=config,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ended_well = kind is None or issubclass(kind, Stopped)
        self._run.finish(exit_code=0 if ended_well else 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers; nested ones are named ``outer/inner``."""
        scalars = numbers(record)
        self._run.log(scalars, step=int(scalars.pop("step")))

    def flush(self) -> None:
        """Do nothing: W&B has a process of its own, which outlives this one."""
