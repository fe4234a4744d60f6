"""A gate: the name of a test says in fewer than 70 letters what holds."""

import ast
import sys
from pathlib import Path

MAX_LETTERS = 69


def faults(root: Path) -> list[str]:
    """A sentence for each test whose name is too long."""
    return [
        f"{path.relative_to(root).as_posix()}:{node.lineno}: {node.name} has {len(node.name)} "
        f"letters and {MAX_LETTERS} are allowed: say what holds in fewer words."
        for path in sorted((root / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAX_LETTERS
    ]


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(__file__).parents[2])) or None)
