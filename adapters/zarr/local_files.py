"""The files of a local group: of bounded size, and all there."""

import os
import stat
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

MOST_BYTES = 1 << 30  # Of a file, and of what is inflated from a chunk.


def check_size(path: str) -> None:
    """Raise ``ValueError`` unless a file is a regular one that can be read whole, or not there."""
    try:
        found = os.stat(path)  # Before each chunk: a Path takes four times as long.
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"it has {found.st_size} bytes, and may have {MOST_BYTES}")


def first_missing(
    folder: Path, grid: Sequence[int], name_of: Callable[[tuple[int, ...]], str]
) -> tuple[str, int] | None:
    """The first chunk file that an array lacks and how many it has, if it has too few.

    Takes as long as the files that are there, whatever the number that should be.

    Args:
        folder: The array's.
        grid: The number of chunks along each dimension.
        name_of: The path of a chunk within the folder, by its place in the grid.
    """
    there = {
        os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
        for place, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and name != "zarr.json"
    }
    if len(there) >= prod(grid):
        return None
    names = (name_of(_place(number, grid)) for number in range(prod(grid)))
    # What is behind a link to a folder is not in the list.
    missing = (name for name in names if name not in there and not (folder / name).is_file())
    first = next(missing, None)
    return None if first is None else (first, len(there))


def _place(number: int, grid: Sequence[int]) -> tuple[int, ...]:
    place = []
    for size in reversed(grid):
        number, within = divmod(number, size)
        place.append(within)
    return tuple(reversed(place))
