"""The logs of a run: JSON lines, and TensorBoard and Weights & Biases if asked for."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from jest_loader.checks import shown
from jest_loader.clip.config.log import LogConfig
from jest_loader.files import finite, open_to_append

_NAME = "log.jsonl"
_LINE_BEGINS = b'{"step": '


class Log(Protocol):
    """Somewhere to write records."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record: numbers, also in nested dicts, of the step ``record["step"]``."""
        ...

    def flush(self) -> None:
        """Make sure that what was written survives if the process is killed."""
        ...


class Logs:
    """Several logs as one.

    Args:
        logs: The logs; none on ranks that do not write.
    """

    def __init__(self, *logs: Log) -> None:
        self._logs = logs

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record to all of them."""
        for log in self._logs:
            log.write(record)

    def flush(self) -> None:
        """Call it before saving a checkpoint, whose run needs the records before it."""
        for log in self._logs:
            log.flush()


@contextmanager
def open_logs(config: LogConfig, out: Path, step: int, run: dict[str, Any]) -> Iterator[Logs]:
    """The logs of a run in ``out`` that goes on after ``step``.

    Args:
        config: Which logs.
        out: The run's folder.
        step: Steps done. Records of later steps are dropped, since they will be written again.
        run: The run's configuration, as JSON values.

    Raises:
        ValueError: if what stands in ``out`` under a log's name is no log of a run.
        ModuleNotFoundError: if a package that a log needs is not installed.
    """
    with ExitStack() as closing:
        logs: list[Log] = [closing.enter_context(_json_lines(out, step))]
        if config.tensorboard:
            from jest_loader.clip.journal.tensorboard_log import TensorBoardLog

            logs.append(closing.enter_context(TensorBoardLog(out / "tensorboard", step)))
        if config.wandb is not None:
            from jest_loader.clip.journal.wandb_log import WandbLog

            logs.append(closing.enter_context(WandbLog(config.wandb, out, run)))
        yield Logs(*logs)


class JsonLines:
    """One line of JSON for each record, with the time in seconds since 1970.

    Args:
        descriptor: The file's, open for appending.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line; numbers that are not finite, which JSON lacks, become null."""
        values = finite({**record, "time": time.time()})
        line = json.dumps(values, allow_nan=False) + "\n"
        os.write(self._descriptor, line.encode())  # In one piece, and at once.

    def flush(self) -> None:
        """Bring the lines to disk."""
        os.fsync(self._descriptor)


@contextmanager
def _json_lines(out: Path, step: int) -> Iterator[JsonLines]:
    path = out / _NAME
    descriptor = open_to_append(path)
    try:
        os.ftruncate(descriptor, _num_bytes_up_to(path, step))
        yield JsonLines(descriptor)
    finally:
        os.close(descriptor)


def _num_bytes_up_to(path: Path, step: int) -> int:
    """The bytes of the file's whole lines up to those of ``step``.

    Raises:
        ValueError: if it is no log of a run, which must not be cut.
    """
    length = 0
    with path.open("rb") as lines:
        head = lines.read(len(_LINE_BEGINS)).rstrip(b"\0")  # Which a power cut may leave.
        if not _LINE_BEGINS.startswith(head):
            raise ValueError(
                f"{path} must be the log of a run, but begins with {shown(repr(head))}; move it "
                "away, or choose another folder"
            )
        lines.seek(0)
        for line in lines:
            found = _step_of(line)
            if found is None or found > step:
                break
            length += len(line)
    return length


def _step_of(line: bytes) -> int | None:
    """The line's step; None if a process or machine died before the line was whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except Exception:  # Nested without end, or no object with numbers.
        return None
