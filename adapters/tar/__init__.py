"""WebDataset tars: a source that reads them where they lie.

::

    source        TarSource: batches from tars
    urls          which tars: folders, patterns, braces
    shard         where a tar is, and how it is opened
    reader        reads tars as blocks
    rows          examples of tars, read when they are taken
    named_bytes   a tar's bytes, whose errors name what was looked at
    defaults      what the first examples tell of the columns
    column_spec   which members become which columns
    values        what members hold, as columns
    npz           arrays of .npz and .npy members
    indexing      indexes of tars: kept ones, or made by reading all headers
    sidecar       the file that keeps an index
    grouping      members to examples
    index         what a tar holds, in columns
    headers       members of a tar, by its headers alone
    file_blocks   blocks of a file, a few of which are read at a time
    fields        what the fields of headers say
    names         which example a member belongs to
"""

from jest_loader.adapters.tar.column_spec import IMAGE
from jest_loader.adapters.tar.source import TarSource

__all__ = ["IMAGE", "TarSource"]
