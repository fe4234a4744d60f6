"""What a launcher of several processes, such as torchrun, has put into the environment."""

import os

from jest_loader.checks import whole

_REMEDY = (
    "start the processes with torchrun, which sets it, or unset LOCAL_RANK, RANK and WORLD_SIZE "
    "for one process"
)


def launched_as() -> tuple[int, int]:
    """This process's rank, and how many processes there are; (0, 1) if nothing launched it.

    Raises:
        ValueError: if ``RANK`` or ``WORLD_SIZE`` is no number, or they do not fit each other.
    """
    size = number_in("WORLD_SIZE", 1, default=1)
    return number_in("RANK", 0, size - 1, default=None if size > 1 else 0), size


def number_in(name: str, least: int, most: int | None = None, *, default: int | None = None) -> int:
    """The whole number from ``least`` to ``most`` in an environment variable.

    Args:
        name: The variable.
        least: The least that it can be.
        most: The most that it can be; None for no limit.
        default: What it is where it is not set; None if it must be.

    Raises:
        ValueError: if it is no such number, or not set.
    """
    text = text_in(name) if default is None else os.environ.get(name, str(default))
    try:
        number = int(text) if text.isascii() else text
    except ValueError:
        number = text
    try:
        return whole(f"the environment variable {name}", number, least, most)
    except ValueError as error:
        raise ValueError(f"{error}; {_REMEDY}") from error


def text_in(name: str) -> str:
    """What is in an environment variable.

    Raises:
        ValueError: if it is not set.
    """
    if not (text := os.environ.get(name)):
        raise ValueError(f"the environment variable {name} must be set, but is not; {_REMEDY}")
    return text
