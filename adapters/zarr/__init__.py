"""``ZarrSource``: batches from the arrays of a Zarr group.

::

    source          ZarrSource: the rows of the arrays, block by block
    group           the arrays of a group, each by its own description
    description     what an array says of itself, bounded before it is opened
    chunk_store     the chunks of an array on their way to Zarr, checked
    bounded_codecs  its codecs, each asked first how much it would make of a chunk
    inflation       how much that is
    codecs          which codecs there may be
    local_files     the files of a local group: of bounded size, and all there
    record          what jest_loader.pack keeps of the arrays that it wrote
    over_http       time-outs, lengths and errors over HTTP
    stored_group    a group in an object store, as Zarr sees it
"""

from jest_loader.adapters.zarr.record import WRITER_ATTRIBUTE
from jest_loader.adapters.zarr.source import ZarrSource

__all__ = ["WRITER_ATTRIBUTE", "ZarrSource"]
