"""The checkpoints of one run: the newest, and some before it."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.saving import checkpoint
from jest_loader.files import PART, read_regular, replacing

_NUMBERED = re.compile(r"checkpoint-(\d{8,})\.pt")
_MOST_BYTES = 1 << 28
_OF_DATA = ("index.json", "zarr.json", ".zgroup")


class CheckpointFolder:
    """A run's folder: ``checkpoint.pt`` is the newest, ``checkpoint-00000200.pt`` that of step 200.

    ``checkpoint.pt`` is whole at any time. The newest numbered one is a hard link to the same file,
    so that it takes no space of its own, or a copy where the file system has no hard links.

    Args:
        path: The folder, which is made. What a killed process left half-written is deleted.
        keep: How many numbered checkpoints stay.

    Raises:
        ValueError: if the path is not free to be a run's folder.
    """

    def __init__(self, path: Path, keep: int) -> None:
        if path.exists() and not path.is_dir():
            raise ValueError(f"out must be a folder, but {path} is none; choose another")
        if any((path / name).exists() for name in _OF_DATA):
            raise ValueError(
                f"out must be a folder of the run's own, but {path} holds data; choose another"
            )
        self.newest = path / "checkpoint.pt"
        self._keep = keep
        if not self.newest.exists():
            _check_metrics(path / "metrics.json")
        path.mkdir(parents=True, exist_ok=True)
        for part in path.iterdir():
            if re.fullmatch(PART, part.name):
                part.unlink(missing_ok=True)  # Another rank may have been first.

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint's contents; None if there is none.

        Raises:
            ValueError: as ``checkpoint.load``.
        """
        return checkpoint.load(self.newest) if self.newest.is_file() else None

    def save(self, step: int, config: TrainConfig, contents: dict[str, Any]) -> None:
        """Write the checkpoint of ``step``, and delete the oldest beyond those to keep."""
        if self._keep == 0:
            checkpoint.save(self.newest, config, contents)
            return
        # ``checkpoint.pt`` comes last: a run that is killed earlier goes on from the one before and
        # does all of this again.
        numbered = self.newest.with_name(f"checkpoint-{step:08}.pt")
        checkpoint.save(numbered, config, contents)
        for old in self._numbered(step)[: -self._keep]:
            old.unlink()
        with replacing(self.newest) as part:
            _link(numbered, part)

    def _numbered(self, step: int) -> list[Path]:
        """Numbered checkpoints up to ``step``, oldest first; later ones are an earlier run's."""
        found = {
            int(match[1]): path
            for path in self.newest.parent.iterdir()
            if (match := _NUMBERED.fullmatch(path.name))
        }
        return [found[number] for number in sorted(found) if number <= step]


def _check_metrics(path: Path) -> None:
    """Raise ``ValueError`` if a file that a run will replace is there, and no run's."""
    if not path.exists():
        return
    try:
        found = json.loads(read_regular(path, _MOST_BYTES))
        is_ours = {"finished", "steps", "config"} <= found.keys()
    except Exception:  # No file, no JSON, or something else in it.
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"out must be a folder of the run's own, but {path} is of something else; move it "
            "away, or choose another folder"
        )


def _link(path: Path, name: Path) -> None:
    """Make ``name`` a hard link to the file, or a copy where there are no hard links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
