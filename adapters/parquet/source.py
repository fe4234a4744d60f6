"""A source of batches from Parquet files."""

from collections.abc import Sequence
from typing import Unpack

from jest_loader.adapters.blocks import BlockSource, SourceKeywords
from jest_loader.adapters.blocks.paths import FileKind, Urls
from jest_loader.adapters.parquet.reader import ParquetFiles

FILES = FileKind("Parquet file", "Parquet files", ".parquet")


class ParquetSource(BlockSource):
    """Batches from Parquet files, such as those of data sets on the Hugging Face Hub.

    What a column holds, and what it is in a batch:

    - image structs (``{"bytes": binary, "path": string}``), and binary: undecoded, as
      ``RaggedBytes``. Of a struct only ``bytes`` is read.
    - text, plain or as a dictionary: a list of str.
    - whole numbers, floats and truth values: [batch], in the stored dtype.
    - lists of a fixed number of these: [batch, k]. A row may have 64 MiB.

    Other columns (lists of any length, decimals, times, other structs) cannot be read.

    A column ``skip_reason`` says of each row why it cannot be used (a value is null, an image has
    only a path, text is not UTF-8), or ``""``; ``JestDataset`` and reference caches skip, count and
    name such rows. Their columns hold ``""``, zeros or no bytes. See ``BlockSource`` for epochs,
    shuffling and state.

    Footers are read once. Rows are read by row groups, and a window holds the chosen columns of its
    row groups in memory: with ``window_rows`` much less than a row group has, one to a few of them.

    Args:
        urls: A folder of ``*.parquet``, a pattern (``data/train-*.parquet``), braces
            (``data/{0000..0041}.parquet``), a file, or a list of these.
        columns: The columns to read; None for all that can be.
        **options: ``batch_size`` and the others of ``SourceOptions``.

    Raises:
        ValueError: if an argument is out of range, there are no files, one is damaged, cut short,
            encrypted, without rows or comes twice, a column cannot be read, or the files do not
            have the same columns. While iterating: if a file was replaced or written to, is
            damaged, or has a row group of more than 2 GiB.
        ModuleNotFoundError: if pyarrow is not installed.
        FileNotFoundError: while iterating, if a file is missing.
        OSError: if one cannot be read.
    """

    def __init__(
        self,
        urls: Urls,
        *,
        columns: Sequence[str] | None = None,
        **options: Unpack[SourceKeywords],
    ) -> None:
        super().__init__(ParquetFiles(FILES.at(urls), columns), **options)
