"""Parquet files, of which the Hub is made: a source that reads them row group by row group.

::

    source        ParquetSource: batches from Parquet files
    reader        reads row groups as blocks
    row_group     the chosen columns of a row group, within bounds
    footer        what a file's footer says of it, read once
    values        Arrow's arrays as columns
    column_kind   which columns can be read, and as what
    opened        what pyarrow raises of a file, as a sentence
    byte_file     a file as pyarrow reads it
"""

from jest_loader.adapters.parquet.source import ParquetSource

__all__ = ["ParquetSource"]
