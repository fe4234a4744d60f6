"""A gate: no module of jest_loader imports itself by way of others.

Imports within functions and under ``TYPE_CHECKING`` count, since a reader follows them too. That
importing ``a.b`` runs ``a/__init__`` does not count; taking a name from ``a`` does.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# Where each package lies: adapters/ is imported as jest_loader.adapters.
PACKAGES = {"jest_loader": "jest_loader", "adapters": "jest_loader.adapters"}

Imports = dict[str, dict[str, int]]  # module -> the modules that it imports, and in which line


def modules(root: Path) -> dict[str, Path]:
    """Each module's file, by the name that it is imported by."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            if not path.is_relative_to(root / "jest_loader/adapters"):  # a symlink to adapters/
                parts = path.relative_to(root / folder).with_suffix("").parts
                found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """The module of each import in the file, the name taken from it or "", and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "", node.lineno) for name in node.names)


def imports(files: dict[str, Path]) -> Imports:
    """Which of the modules each of them imports."""
    found: Imports = {}
    for module, path in files.items():
        targets = found.setdefault(module, {})
        for name, member, line in imported(ast.parse(path.read_text())):
            target = f"{name}.{member}" if f"{name}.{member}" in files else name
            if target in files and target != module:
                targets.setdefault(target, line)
    return found


def circles(graph: Imports) -> Iterator[list[str]]:
    """The modules along one circle after the other, each searched without the last one's end."""
    graph = {module: dict(targets) for module, targets in graph.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib names what comes before first
            yield circle[:-1]
            del graph[circle[-2]][circle[-1]]
        else:
            return


def faults(root: Path) -> list[str]:
    """A sentence for each circle, with the file and line of each import along it."""
    files = modules(root)
    graph = imports(files)
    sentences = []
    for circle in circles(graph):
        steps = [
            f"{files[module].relative_to(root).as_posix()}:{graph[module][target]} imports {target}"
            for module, target in zip(circle, [*circle[1:], circle[0]], strict=True)
        ]
        sentences.append(
            f"Modules import one another in a circle ({', '.join(steps)}): "
            "move what both need into a module below them."
        )
    return sentences


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(__file__).parents[2])) or None)
