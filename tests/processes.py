"""Real processes that talk over gloo, each with a hard limit on its time."""

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

LIMIT_S = 60.0

CONTEXT = multiprocessing.get_context("forkserver")
# The first optimizer of a process imports the compiler, for two seconds.
CONTEXT.set_forkserver_preload(
    ["torch", "torch._dynamo", "jest_loader.clip.train", "tests.helpers"]
)


class Ended(NamedTuple):
    """How a process ended: what it returned, or the text of its error; neither if it was killed."""

    result: Any = None
    error: str | None = None


def launch(
    num_ranks: int, run: Callable[..., Any], *arguments: Any, timeout_s: float = 20.0
) -> list[Ended]:
    """Call ``run(rank, *arguments)`` in as many processes, with their default group initialised.

    Args:
        num_ranks: How many.
        run: A function at the top of a module.
        arguments: For it.
        timeout_s: Of the process group.

    Raises:
        TimeoutError: if one of them takes longer than a minute.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(num_ranks)]
        processes = [
            CONTEXT.Process(
                target=_run,
                args=(rank, num_ranks, Path(folder) / "store", timeout_s, sent, run, arguments),
                daemon=True,
            )
            for rank, (_, sent) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sent in pipes:
            sent.close()  # so that a killed process's pipe ends
        try:
            return _collected([received for received, _ in pipes])
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collected(pipes: list[Connection]) -> list[Ended]:
    ended = [Ended()] * len(pipes)
    left, deadline = list(pipes), time.monotonic() + LIMIT_S
    while left:
        ready: list[Any] = wait(left, timeout=max(0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {[pipes.index(pipe) for pipe in left]} hang")
        for pipe in ready:
            left.remove(pipe)
            try:
                ended[pipes.index(pipe)] = pipe.recv()
            except EOFError:
                continue
    return ended


def _run(rank, num_ranks, store, timeout_s, sent, run, arguments):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=store.as_uri(),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        ended = Ended(run(rank, *arguments))
    except Exception:
        ended = Ended(error=traceback.format_exc())
    sent.send(ended)
    sent.close()
    if dist.is_initialized():
        dist.destroy_process_group()
