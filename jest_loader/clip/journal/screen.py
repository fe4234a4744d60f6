"""The log on the screen: lines that fit it, and no line behind a progress bar."""

import logging
import shutil
import sys
from textwrap import TextWrapper

_FEWEST_COLUMNS = 20  # Of less nothing can be read, and of none nothing be made.


class _AroundBars:
    """Standard error, where progress bars make room for what is written."""

    def write(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()


class _Fitting(logging.Formatter):
    """Breaks lines between words at the terminal's columns, or the 79 of a log."""

    def format(self, record: logging.LogRecord) -> str:
        wrapper = TextWrapper(
            width=max(_FEWEST_COLUMNS, shutil.get_terminal_size().columns - 1),
            subsequent_indent="  ",
            break_long_words=False,  # A path or an option can be copied.
            break_on_hyphens=False,
        )
        lines = super().format(record).splitlines()
        return "\n".join(wrapper.fill(line) for line in lines)


def screen_handler() -> logging.Handler:
    """What writes a command's log to standard error."""
    handler = logging.StreamHandler(_AroundBars())
    handler.setFormatter(_Fitting("%(levelname)s: %(message)s"))
    return handler
