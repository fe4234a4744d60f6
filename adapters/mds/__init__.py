"""MosaicML's MDS shards: a source that maps them, and folders that are fetched from elsewhere.

::

    source   MdsSource: batches from one or several folders of shards
    reader   reads shards as blocks
    rows     rows of shards, decoded when they are taken
    stream   MdsStream: a folder of shards, here or elsewhere, and its index
    shard    what is in the bytes of a shard
    file     the bytes of a shard, mapped or decompressed, and checked
    remote   fetches files into a folder with a limit
"""

from jest_loader.adapters.mds.source import MdsSource
from jest_loader.adapters.mds.stream import MdsStream

__all__ = ["MdsSource", "MdsStream"]
