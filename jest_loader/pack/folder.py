"""Pictures in a folder, captioned by a CSV or JSON Lines file."""

import csv
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jest_loader.checks import shown
from jest_loader.files import read_regular
from jest_loader.pack.lines import MOST_LETTERS, Lines, open_text
from jest_loader.pack.records import (
    DUPLICATE,
    MOST_IMAGE_BYTES,
    Record,
    SkipError,
    Tally,
    caption_of,
    digest_of,
    extra_columns,
)

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
            raise ValueError(f"captions must be a file, got {shown(path)!r}; check the path")
        if path.suffix not in (*_DELIMITERS, *_JSON_LINES):
            raise ValueError(
                f"captions must be a .csv, .tsv or .jsonl file, got {shown(path)!r}; rename or "
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
                digest = digest_of(file_name, caption)
                if digest in seen:  # another caption makes it another example
                    raise SkipError(DUPLICATE)
                extra = extra_columns(fields, self._keep_columns)
                image = _read(folder / file_name, bounds)
            except SkipError as skip:
                tally.skip(name, str(skip))
                continue
            seen.add(digest)
            yield Record(file_name, image, caption, extra)

    def _entries(self) -> Iterator[_Entry]:
        read = self._csv_rows if self._path.suffix in _DELIMITERS else _json_lines
        with open_text(self._path) as file:
            yield from read(Lines(self._path, file))

    def _csv_rows(self, lines: Lines) -> Iterator[_Entry]:
        reader = csv.DictReader(
            # strict: an unbalanced quote must not swallow the lines after it.
            lines,
            delimiter=_DELIMITERS[self._path.suffix],
            strict=True,
        )
        try:
            self._check_header(list(reader.fieldnames or []))
            lines.end_record()
            while (row := _next_row(reader)) is not None:
                yield f"line {lines.number}", row
                lines.end_record()
        except csv.Error as error:
            raise ValueError(
                f"captions must be a CSV file, but {lines.place} of {shown(self._path)} is not: "
                f"{error}; mend it (a quote in a quoted text is written twice)"
            ) from error

    def _check_header(self, header: list[str]) -> None:
        path, delimiter = shown(self._path), _DELIMITERS[self._path.suffix]
        wanted = [self._file_column, self._caption_column, *self._keep_columns]
        if all(name in header for name in wanted):
            if len(set(header)) < len(header):
                raise ValueError(
                    f"the columns of {path} must differ, got {shown(header)}; rename one"
                )
            return
        others = [other for other in ";\t|," if other in "".join(header)]
        if len(header) == 1 and others:
            raise ValueError(
                f"the columns of {path} must be separated by {delimiter!r}, but its first line "
                f"has {others[0]!r}: {shown(header[0])!r}; save it with commas as .csv, or with "
                "tabs as .tsv"
            )
        raise ValueError(
            f"{path} must have the columns {wanted}, got {shown(header)}; set --file-column, "
            "--caption-column and --keep-columns to names of its first line"
        )


def _next_row(reader: "csv.DictReader[str]") -> dict[str | Any, Any] | None:
    """The next row; ``Lines`` bounds it, in place of csv's limit of 128 Ki for the process."""
    limit = csv.field_size_limit(MOST_LETTERS)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _json_lines(lines: Lines) -> Iterator[_Entry]:
    for line in lines:
        lines.end_record()
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except Exception:  # nested too deeply is no ValueError
            fields = None
        yield f"line {lines.number}", fields if isinstance(fields, dict) else None


def _read(path: Path, bounds: Path | None) -> bytes:
    """The file's bytes, if it is a regular file and within ``bounds`` once links are followed.

    Raises:
        SkipError: with a reason that does not name the file, so that equal ones are counted.
    """
    try:
        path = path.resolve()
        if bounds is not None and not path.is_relative_to(bounds):
            raise SkipError("outside the input folder (--allow-outside takes it)")
        return read_regular(path, MOST_IMAGE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise SkipError("missing file") from None
    except OSError as error:
        raise SkipError(f"unreadable file ({error.strerror or type(error).__name__})") from None
    except RuntimeError:
        raise SkipError(f"unreadable file ({os.strerror(errno.ELOOP)})") from None
    except ValueError:  # a NUL, or half a character
        raise SkipError("unreadable file (a name that no file has)") from None
