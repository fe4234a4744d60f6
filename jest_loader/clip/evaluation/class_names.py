"""Class names and the templates that make captions of them."""

import json
import re
from pathlib import Path

from jest_loader.checks import shown
from jest_loader.files import read_regular

_MOST_BYTES = 1 << 24
_END = re.compile(r"\r\n?|\n")
_PLACE = re.compile(r"\{c?\}")  # {c} is how clip_benchmark writes it.


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file, in the order of their numbers from 0.

    Raises:
        ValueError: if it cannot be read, a name is empty, or there are fewer than two.
    """
    names = _texts(path, "class names")
    if len(names) < 2:
        raise ValueError(f"there must be at least 2 class names, got {len(names)} in {path}")
    return names


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates in a file.

    Raises:
        ValueError: if it cannot be read, or a template has no place for the name.
    """
    templates = _texts(path, "templates")
    if not templates:
        raise ValueError(f"there must be at least one template, got none in {path}")
    for template in templates:
        if not _PLACE.search(template):
            raise ValueError(
                f"a template must hold {{}} where the class name goes, got '{shown(template)}' "
                f"in {path}"
            )
    return templates


def fill_template(template: str, name: str) -> str:
    """The template with the name in its place."""
    return _PLACE.sub(lambda _: name, template)


def _texts(path: Path, what: str) -> tuple[str, ...]:
    """The texts of a file, one a line or in a JSON list."""
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
        lines = json.loads(text) if path.suffix == ".json" else _END.split(text.rstrip())
    except OSError:
        raise
    except Exception as error:  # nested too deeply is no ValueError
        raise ValueError(
            f"{what} must be in UTF-8, one a line or in a JSON list, but {shown(path)} is not "
            f"({shown(error)}); mend or convert it"
        ) from error
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{what} in JSON must be a list of texts, but {path} is not one")
    texts = tuple(line.strip() for line in lines)
    for number, one in enumerate(texts, start=1):
        if not one:
            raise ValueError(f"{what} must not be empty, but number {number} in {path} is")
    return texts
