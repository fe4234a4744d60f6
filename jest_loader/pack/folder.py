"""Pictures in a folder, captioned by a CSV or JSON Lines file."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from jest_loader.pack.records import DUPLICATE, Record, SkipError, Tally, caption_of, extra_columns

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_Entry = tuple[str, dict[str, Any] | None]  # where it stands, and its fields if it has any


class CaptionFile:
    """A table of file names and captions.

    Args:
        path: A .csv or .tsv file with a header line, or a .jsonl file, in UTF-8.
        file_column: The column of the picture's path, relative to the folder of pictures.
        caption_column: The column of the caption.
        keep_columns: Further columns to keep.

    Raises:
        ValueError: if the file cannot be read or has no such columns.
    """

    def __init__(
        self, path: Path, file_column: str, caption_column: str, keep_columns: tuple[str, ...]
    ) -> None:
        if not path.is_file():
            raise ValueError(f"captions must be a file, got {str(path)!r}; check the path")
        if path.suffix not in (*_DELIMITERS, *_JSON_LINES):
            raise ValueError(
                f"captions must be a .csv, .tsv or .jsonl file, got {str(path)!r}; rename or "
                "convert it"
            )
        self._path = path
        self._file_column = file_column
        self._caption_column = caption_column
        self._keep_columns = keep_columns
        # Reading it through once finds a wrong encoding before anything is written.
        self.num_records = sum(1 for _ in self._entries())

    def records(
        self, folder: Path, tally: Tally, *, allow_outside: bool = False
    ) -> Iterator[Record]:
        """The pictures that exist, with their captions; the others go to the tally.

        Args:
            folder: Where the pictures are.
            tally: Counts what is skipped.
            allow_outside: Whether pictures may lie outside of the folder.
        """
        seen = set()
        bounds = None if allow_outside else folder.resolve()
        for place, fields in self._entries():
            name = place
            try:
                if fields is None:
                    raise SkipError("not a JSON object")
                if None in fields:  # where DictReader puts what the header has no name for
                    raise SkipError("more fields than the header (quote commas)")
                file_name = fields.get(self._file_column)
                if not isinstance(file_name, str) or not file_name:
                    raise SkipError("no file name")
                name = f"{file_name} ({place})"
                caption = caption_of(fields.get(self._caption_column))
                if (file_name, caption) in seen:  # another caption makes it another example
                    raise SkipError(DUPLICATE)
                extra = extra_columns(fields, self._keep_columns)
                image = _read(folder / file_name, bounds)
            except SkipError as skip:
                tally.skip(name, str(skip))
                continue
            seen.add((file_name, caption))
            yield Record(file_name, image, caption, extra)

    def _entries(self) -> Iterator[_Entry]:
        read: Callable[[TextIO], Iterator[_Entry]]
        read = self._csv_rows if self._path.suffix in _DELIMITERS else _json_lines
        try:
            # utf-8-sig drops the mark that spreadsheets put in front.
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield from read(file)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"captions must be in UTF-8, but {self._path} has byte "
                f"0x{error.object[error.start]:02x}, which is not; convert it, for instance with: "
                "iconv -f WINDOWS-1252 -t UTF-8"
            ) from error
        except csv.Error as error:
            raise ValueError(f"{self._path} is not a CSV file: {error}; mend it") from error

    def _csv_rows(self, file: TextIO) -> Iterator[_Entry]:
        reader = csv.DictReader(
            # strict: an unbalanced quote must not swallow the lines after it.
            file,
            delimiter=_DELIMITERS[self._path.suffix],
            strict=True,
        )
        header = list(reader.fieldnames or [])
        wanted = [self._file_column, self._caption_column, *self._keep_columns]
        missing = [name for name in wanted if name not in header]
        if missing:
            raise ValueError(
                f"{self._path} must have the columns {wanted}, got {header}; set file_column and "
                "caption_column to those that hold the path and the caption"
            )
        if len(set(header)) < len(header):
            raise ValueError(f"the columns of {self._path} must differ, got {header}; rename one")
        for row in reader:
            yield f"line {reader.line_num}", row


def _json_lines(file: TextIO) -> Iterator[_Entry]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except Exception:  # nested too deeply is no ValueError
            fields = None
        yield f"line {number}", fields if isinstance(fields, dict) else None


def _read(path: Path, bounds: Path | None) -> bytes:
    """The file's bytes, if it is a regular file and within ``bounds`` once links are followed."""
    try:
        path = path.resolve()
        if bounds is not None and not path.is_relative_to(bounds):
            raise SkipError("outside the input folder (allow_outside takes it)")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise SkipError("no regular file")  # Reading a pipe or a device might never end.
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SkipError("missing file") from None
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, no permission
        raise SkipError(f"unreadable file ({error})") from None
