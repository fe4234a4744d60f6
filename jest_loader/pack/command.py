"""``jest-loader pack``: pictures and captions into MDS or Zarr."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from jest_loader.checks import whole
from jest_loader.pack.folder import CaptionFile
from jest_loader.pack.records import Record, SkipError, Tally, check_image
from jest_loader.pack.tars import tar_records
from jest_loader.pack.thumbnails import Thumbnails
from jest_loader.pack.writers import write_mds, write_zarr
from jest_loader.seen import content_keys

_COLUMNS = {"key": "str", "image": "bytes", "caption": "str"}
_THUMBNAIL = "thumbnail"


@dataclass(frozen=True)
class PackConfig:
    """Pack a folder of pictures and their captions, or WebDataset tars, into MDS or Zarr."""

    input: tuple[Path, ...]
    """The folder of pictures that the captions file names, or one or more WebDataset tars."""

    output: Path
    """The folder to make. It appears once it is whole."""

    format: Literal["mds", "zarr"] = "mds"
    """The format to write: MosaicML MDS shards, or a Zarr group."""

    captions: Path | None = None
    """A .csv, .tsv or .jsonl file (UTF-8), a picture and its caption per line. None for tars."""

    file_column: str = "file"
    """The column of the captions file that holds the picture's path, relative to the folder."""

    caption_column: str = "caption"
    """The column of the captions file, or the field of a tar's .json, that holds the caption."""

    keep_columns: tuple[str, ...] = ()
    """Further columns or fields to keep, as text."""

    thumbnail: int | None = None
    """Height and width in pixels of a thumbnail to store beside each picture, for scorers that look
    at all candidates; None for none.
    """

    leave_out: tuple[int, int] | None = None
    """Leave out a fold of the pictures: `0 2` leaves out the first of two halves, to train one of
    two cross-fitted references on the rest. Which fold a picture is in depends on its bytes alone.
    """

    allow_outside: bool = False
    """Take pictures from outside the input folder too, where the captions file names them by an
    absolute path, by `..` or through a link.
    """

    max_skipped_fraction: float = 0.01
    """Fail if more than this share of the records is skipped (from 0 to 1)."""

    overwrite: bool = False
    """Replace the data set that the output holds."""


def pack(config: PackConfig, *, progress: bool = False) -> Tally:
    """Write the pictures that can be decoded, as the bytes they are, with their captions.

    The data set has the columns ``key`` (where the picture came from), ``image`` (encoded bytes),
    ``caption``, ``thumbnail`` (a JPEG of the centre square) if asked for, and those of
    ``keep_columns``. Records that cannot be used are logged by name and counted.

    Args:
        config: What to pack.
        progress: Whether to show a progress bar on stderr.

    Returns:
        How many were written, left out, and skipped for which reasons.

    Raises:
        ValueError: if the input cannot be read, the output is taken, or too many records were
            skipped; no output is left then.
    """
    _check(config)
    tally = Tally(config.max_skipped_fraction)
    records, total = _open(config, tally)
    make = None if config.thumbnail is None else Thumbnails(config.thumbnail)
    columns = _columns(config) | dict.fromkeys(config.keep_columns, "str")
    with tqdm(total=total, unit=" records", desc="pack", disable=not progress) as bar:
        rows = _rows(_without_fold(records, config.leave_out, tally), make, tally, bar)
        write = write_mds if config.format == "mds" else write_zarr
        write(config.output, columns, rows, overwrite=config.overwrite)
    return tally


def pack_command(config: PackConfig) -> None:
    """Pack with a progress bar, and end with one line of counts.

    Raises:
        ValueError: as ``pack`` does.
    """
    tally = pack(config, progress=True)
    tqdm.write(f"{config.output}: {tally}")


def _check(config: PackConfig) -> None:
    # MdsSource and ZarrSource give sample_id to each row.
    taken = [*_columns(config), "sample_id"]
    clash = [name for name in config.keep_columns if name in taken]
    if clash or len(set(config.keep_columns)) < len(config.keep_columns):
        raise ValueError(
            f"--keep-columns must differ from {taken} and from each other, got "
            f"{list(config.keep_columns)}; rename them in the input"
        )
    if not 0 <= config.max_skipped_fraction <= 1:
        raise ValueError(
            f"--max-skipped-fraction must be from 0 to 1, got {config.max_skipped_fraction:g}"
        )
    if config.thumbnail is not None and not 1 <= config.thumbnail <= 4096:
        raise ValueError(
            f"--thumbnail must be from 1 to 4096 pixels or None, got {config.thumbnail}"
        )
    if config.leave_out is not None:
        fold, num_folds = config.leave_out
        last = whole("--leave-out's second number, of folds,", num_folds, 2) - 1
        whole("--leave-out's first number, a fold counted from 0,", fold, 0, last)
    output = config.output.resolve()
    sources = [*config.input, *([config.captions] if config.captions else [])]
    inside = [str(path) for path in sources if path.resolve().is_relative_to(output)]
    if inside:
        raise ValueError(
            f"the output must not hold the input, got {str(config.output)!r}, which holds "
            f"{inside}; choose another output"
        )


def _open(config: PackConfig, tally: Tally) -> tuple[Iterator[Record], int | None]:
    """The records, and their number if it is known."""
    if config.captions is not None:
        if len(config.input) != 1 or not config.input[0].is_dir():
            there = all(path.exists() for path in config.input)
            raise ValueError(
                "with captions, the input must be one folder of pictures, got "
                f"{_names(config.input)}"
                + ("; the captions of tars stand in the tars" if there else ", which is not there")
            )
        table = CaptionFile(
            config.captions, config.file_column, config.caption_column, config.keep_columns
        )
        return (
            table.records(config.input[0], tally, allow_outside=config.allow_outside),
            table.num_records,
        )
    if not config.input or not all(path.is_file() for path in config.input):
        raise ValueError(
            f"without captions, the input must be WebDataset tars, got {_names(config.input)}; for "
            "a folder of pictures give the captions file"
        )
    records = (
        record
        for path in config.input
        for record in tar_records(path, config.caption_column, config.keep_columns, tally)
    )
    return records, None


def _without_fold(
    records: Iterator[Record], fold: tuple[int, int] | None, tally: Tally
) -> Iterator[Record]:
    """The records but those of a fold, which are counted."""
    for record in records:
        if fold is not None and int(content_keys([record.image])[0]) % fold[1] == fold[0]:
            tally.left_out += 1
        else:
            yield record


def _rows(
    records: Iterator[Record], make: Thumbnails | None, tally: Tally, bar: "tqdm[None]"
) -> Iterator[dict[str, object]]:
    """Rows of the records with readable pictures; fails at the end if too many were skipped."""
    for record in records:
        try:
            row = _row(record, make)
        except SkipError as skip:
            tally.skip(record.key, str(skip))
        else:
            tally.write()
            yield row
        bar.update(tally.num_records - bar.n)
    bar.update(tally.num_records - bar.n)  # the reader may have skipped the last ones
    tally.check()


def _row(record: Record, make: Thumbnails | None) -> dict[str, object]:
    check_image(record.image)
    small = {} if make is None else {_THUMBNAIL: make(record.image)}
    key = record.key.encode(errors="backslashreplace").decode()  # names may be in any encoding
    columns = {"key": key, "image": record.image, "caption": record.caption}
    return {**columns, **small, **record.extra}


def _columns(config: PackConfig) -> dict[str, str]:
    """The columns of every data set, with their types."""
    return _COLUMNS if config.thumbnail is None else {**_COLUMNS, _THUMBNAIL: "bytes"}


def _names(paths: tuple[Path, ...]) -> list[str]:
    return [str(path) for path in paths]
