"""A gate: files of at most 300 lines, functions of at most 40 lines of code.

A file's lines are all of its lines. A function's lines are those of its body that hold code: no
docstring, no blank line, no comment. Private functions count too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("jest_loader", "adapters", "bench")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40

# A path, or a path and a function as in "bench/x.py:Class.method", each with the reason.
EXCEPTIONS = {
    "jest_loader/ops/fused.py:_sum_over_chunk": "one loop, with what it carries from tile to tile",
}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of the body that hold code: no docstring, no blank line, no comment."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    held = lines[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in held)


def functions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function with its name in the file, as in ``Class.method``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not isinstance(node, ast.ClassDef):
                yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def too_large(root: Path) -> dict[str, str]:
    """A sentence for each file and function over its limit, by the name that excepts it."""
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        if path.is_relative_to(root / "jest_loader/adapters"):
            continue  # a symlink to adapters/
        name, text = path.relative_to(root).as_posix(), path.read_text()
        lines = text.splitlines()
        if len(lines) > MAX_FILE_LINES:
            found[name] = (
                f"{name} has {len(lines)} lines and {MAX_FILE_LINES} are allowed: "
                "move one of its nouns into a file of its own."
            )
        for function, node in functions(ast.parse(text)):
            if (size := code_lines(node, lines)) > MAX_FUNCTION_LINES:
                found[f"{name}:{function}"] = (
                    f"{name}:{node.lineno}: {function} has {size} lines of code and "
                    f"{MAX_FUNCTION_LINES} are allowed: give one of its steps a name of its own."
                )
    return found


def faults(root: Path, exceptions: dict[str, str]) -> list[str]:
    """What is over its limit and not excepted, and exceptions that are no longer needed."""
    found = too_large(root)
    return [sentence for name, sentence in found.items() if name not in exceptions] + [
        f"{name} is within its limit: take it off the exceptions in tests/gates/sizes.py."
        for name in exceptions
        if name not in found
    ]


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(__file__).parents[2], EXCEPTIONS)) or None)
