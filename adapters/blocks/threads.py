"""Calls in a few threads that never keep a process alive.

When Python exits it waits for the threads of a ``ThreadPoolExecutor``, without end if one of them
reads from storage that hangs.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def map_in_threads(
    function: Callable[[In], Out], values: Sequence[In], num_threads: int
) -> list[Out]:
    """``[function(value) for value in values]``, in up to ``num_threads`` threads.

    Raises:
        BaseException: what the first call to fail raised, after all calls that had begun are over.
            No other calls are made.
    """
    if num_threads == 1 or len(values) <= 1:
        return [function(value) for value in values]
    found: dict[int, Out] = {}
    failed: list[BaseException] = []
    waiting = iter(enumerate(values))
    taking = threading.Lock()
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while not failed:
                with taking:
                    number, value = next(waiting)
                found[number] = function(value)
        except StopIteration:
            pass
        except BaseException as error:  # Whatever it is, it is the caller's.
            failed.append(error)
        finally:
            ended.put(None)

    threads = min(num_threads, len(values))
    for _ in range(threads):
        threading.Thread(target=work, name="jest-loader source", daemon=True).start()
    for _ in range(threads):
        ended.get()
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(values))]
