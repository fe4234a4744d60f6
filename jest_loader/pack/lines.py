"""Lines of a captions file, in UTF-8 and of bounded length."""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from jest_loader.checks import shown

MOST_LETTERS = 1 << 24
_WIDE = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip


class Lines:
    """The lines of a file, as a csv reader takes them: with their ends.

    A record has one or more lines, and at most 16 Mi characters; ``end_record`` is to be called
    after each.

    Args:
        path: Where it is, for messages.
        file: It, opened by ``open_text``.

    Raises:
        ValueError: when iterated, for text that is not UTF-8, a NUL byte, or a longer record.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._first = 1
        self._left = MOST_LETTERS
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._left -= len(line)
        if self._left < 0:
            raise ValueError(
                f"a record of a captions file must have at most {MOST_LETTERS >> 20} Mi "
                f"characters, but {self.place} of {shown(self._path)} has more; mend it (is a "
                "quote left open?)"
            )
        if "\0" in line:
            raise ValueError(
                f"captions must be text, but line {self.number} of {shown(self._path)} has a NUL "
                "byte; mend it, or if it is in UTF-16, convert it with: "
                "iconv -f UTF-16LE -t UTF-8"
            )
        if not line.isascii():
            self._check_utf8(line)
        return line

    @property
    def place(self) -> str:
        """The lines of the record that is read."""
        if self._first >= self.number:
            return f"line {self.number}"
        return f"the record of lines {self._first} to {self.number}"

    def end_record(self) -> None:
        """Let the next line begin a record."""
        self._first = self.number + 1
        self._left = MOST_LETTERS

    def _check_utf8(self, line: str) -> None:
        try:
            line.encode()
        except UnicodeEncodeError as error:  # open_text has put half a character for each such byte
            raise ValueError(
                f"captions must be in UTF-8, but line {self.number} of {shown(self._path)} has "
                f"byte 0x{ord(line[error.start]) - 0xDC00:02x}, which is not; convert it, for "
                "instance with: iconv -f WINDOWS-1252 -t UTF-8"
            ) from None


def open_text(path: Path) -> TextIO:
    """Open a file for ``Lines``, without the mark that spreadsheets put in front.

    Raises:
        ValueError: if it is marked as UTF-16 or UTF-32.
    """
    with path.open("rb") as file:
        start = file.read(4)
    for mark, name in _WIDE.items():
        if start.startswith(mark):
            raise ValueError(
                f"captions must be in UTF-8, but {shown(path)} is in {name} (which spreadsheets "
                f"call Unicode text); convert it with: iconv -f {name} -t UTF-8"
            )
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
