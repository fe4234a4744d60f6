"""What is left of something that was closed: threads and open files."""

import gc
import os
import threading
import time
from collections.abc import Callable

_PATIENCE_S = 5.0  # A thread may be in a read.


def check_nothing_left(begin_and_drop: Callable[[], None], what: str) -> None:
    """Check that a call leaves no thread and no open file.

    Args:
        begin_and_drop: The call. What it made must be out of reach once it returns.
        what: What it began, for the message.

    Raises:
        AssertionError: naming what is left.
    """
    threads, files = set(threading.enumerate()), _open_files()
    begin_and_drop()
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        left = [repr(one.name) for one in threading.enumerate() if one not in threads]
        held = sorted(target for _, target in _open_files() - files)
        if not left + held or time.monotonic() > deadline:
            break
        gc.collect()  # Slow in a large process, hence not where nothing is left.
        time.sleep(0.01)
    assert not left, (
        f"{what} left the threads {', '.join(left)}; end them when the iterator is closed"
    )
    assert not held, f"{what} left {', '.join(held)} open; close them when the iterator is closed"


def _open_files() -> set[tuple[str, str]]:
    """This process's open descriptors and what each leads to; none where that cannot be known."""
    folder, found = "/proc/self/fd", set()
    if not os.path.isdir(folder):
        return set()
    for name in os.listdir(folder):
        try:
            found.add((name, os.readlink(f"{folder}/{name}")))
        except FileNotFoundError:  # That of the folder itself.
            continue
    return found
