"""Prints the oldest versions that pyproject.toml allows, as constraints for pip.

`make oldest` runs the quick tests with them. The tools of the extra `dev` are left at their newest.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def floors(requirements: Iterable[str]) -> Iterator[str]:
    """``name==oldest`` for each requirement of another project, which must have a floor."""
    for requirement in requirements:
        if found := re.match(r"([\w-]+)(?:\[.*?\])?>=([\d.]+)", requirement):
            yield "==".join(found.groups())
        elif not requirement.startswith("jest-loader["):
            raise ValueError(f"a requirement must have a floor, got {requirement!r}; add >=")


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[extra] for extra in extras if extra != "dev")]
    print("\n".join(sorted({pin for requirements in lists for pin in floors(requirements)})))
