"""Checks of arguments that several public edges make."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as a plain int, which a state can hold.

    Raises:
        ValueError: if it is no whole number, or not in [least, most].
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ValueError(f"{name} must be a whole number {bounds}, got {shown(repr(value))}")


def flag(name: str, value: Any) -> bool:
    """``value`` as a plain bool.

    Raises:
        ValueError: if it is anything else, such as a text that Python takes for true.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name} must be True or False, got {shown(repr(value))}")


def check_keywords(given: Mapping[str, object], known: type) -> None:
    """Raise ``TypeError``, as Python does, unless all of ``given`` are keys of a ``TypedDict``."""
    names = list(known.__annotations__)
    for name in given:
        if name not in names:
            raise TypeError(
                f"got an unexpected keyword argument {name!r}; beside the arguments of its own it "
                f"takes {', '.join(names)}"
            )


@contextmanager
def ending_nothing(what: str) -> Iterator[None]:
    """A call of a user's code, whose StopIteration would end the loop around it without a word.

    Args:
        what: What is called, for the message.

    Raises:
        ValueError: in place of StopIteration.
    """
    try:
        yield
    except StopIteration as error:
        raise ValueError(
            f"{what} must return, but raised StopIteration, which would end the epoch; give next() "
            "a default, as in next(iterator, None), or begin the iterator anew"
        ) from error


def differ(one: object, other: object) -> bool:
    """Whether two values are not equal, or cannot be compared, as arrays cannot."""
    try:
        return bool(one != other)
    except Exception:  # Whatever a comparison of foreign values raises.
        return True


def shown(text: object, *, most: int = 200) -> str:
    """What others wrote, for a message: control characters escaped, and cut to a length.

    Args:
        text: A name, a caption, a version; anything else as an f-string has it.
        most: Characters of it to show.
    """
    try:
        given = f"{text}"  # Which a tensor of one number has as the number.
    except Exception:  # Nested without end, or of a kind that cannot be shown.
        given = f"a {type(text).__name__}"
    escaped = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in given[:most]
    )
    return escaped if len(given) <= most else f"{escaped}... ({len(given)} characters)"


def without_secrets(text: object) -> str:
    """A text with URLs, without the passwords and signatures that they carry."""
    hidden = re.sub(r"(https?://)[^\s/@]*@", r"\1***@", f"{text}")
    hidden = re.sub(r"(://[^\s/:@]*):[^\s/]*@", r"\1:***@", hidden)
    hidden = re.sub(r"(://[^\s?'\"]*)\?[^\s'\"<>]*", r"\1?***", hidden)
    return re.sub(r"([?&][\w.~-]+=)[^&\s'\"]+", r"\1***", hidden)


def first_few(names: Sequence[object], *, most: int = 10, separator: str = ", ") -> str:
    """The first names as one text, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return separator.join([*map(str, names[:most]), *more])


def is_number(value: object) -> bool:
    """Whether ``value`` is a number, which text and flags are not."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
