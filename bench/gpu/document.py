"""What was found: one JSON document, whole on disk after each figure."""

import json
from pathlib import Path
from typing import Any, Literal

from bench.gpu.parts import PARTS
from jest_loader.files import save_json

State = Literal["done", "stopped", "failed", "left out"]
NAME = "gpu.json"
TABLE = "gpu.txt"


class Document:
    """The figures of all parts, and how each part ended.

    A part that is done is not run again. Of another, the figures that it told are kept, and it goes
    on behind them.

    Args:
        folder: Where the document is, or will be.
        environment: The hardware, versions and commit that figures belong to.
        smoke: Whether sizes are tiny.

    Raises:
        ValueError: if the folder has a document of another environment.
    """

    def __init__(self, folder: Path, environment: dict[str, Any], *, smoke: bool) -> None:
        self._path = folder / NAME
        self.values: dict[str, Any] = {"environment": environment, "smoke": smoke, "parts": {}}
        if not self._path.exists():
            return
        found = read(self._path)
        own = {"environment": environment, "smoke": smoke}
        for name, value in own.items():
            if found[name] != value:
                raise ValueError(
                    f"{self._path} must be of this {name} to go on with it, got {found[name]} and "
                    f"{value}; name another folder with --out"
                )
        self.values = found

    def is_done(self, part: str) -> bool:
        """Whether nothing is left to measure of a part."""
        return bool(self.part(part)["state"] == "done")

    def part(self, name: str) -> dict[str, Any]:
        """A part's ``state``, ``said``, ``seconds`` and ``figures`` by key."""
        fresh = {"state": "left out", "said": "", "seconds": 0.0, "figures": {}}
        part: dict[str, Any] = self.values["parts"].setdefault(name, fresh)
        return part

    def add(self, part: str, key: str, figure: Any) -> None:
        """Keep a figure of a part; it is on disk when this returns."""
        self.part(part)["figures"][key] = figure
        self.save()

    def end(self, part: str, state: State, said: str = "", seconds: float = 0.0) -> None:
        """Say how a part ended, and what it said; its seconds are those of all its tries."""
        ended = self.part(part)
        ended |= {"state": state, "said": said, "seconds": ended["seconds"] + seconds}
        self.save()

    def save(self) -> None:
        """Write it, in place of what was there."""
        parts = self.values["parts"]
        self.values["parts"] = {name: parts[name] for name in PARTS if name in parts}
        save_json(self._path, self.values)


def read(path: Path) -> dict[str, Any]:
    """A document, by its file or by its folder."""
    values: dict[str, Any] = json.loads((path / NAME if path.is_dir() else path).read_text())
    return values
