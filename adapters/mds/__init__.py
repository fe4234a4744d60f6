"""MosaicML's MDS shards: a source that maps them into memory or fetches them first.

::

    source   MdsSource: batches from one or several folders of shards
    reader   reads shards as blocks
    rows     rows of shards, decoded when they are taken
    stream   MdsStream: a folder of shards, local or remote, and its index
    shard    takes the bytes of a shard apart
    file     the bytes of a shard, mapped or decompressed, and checked
    remote   fetches files into a folder with a limit
"""

from jest_loader.adapters.mds.source import MdsSource
from jest_loader.adapters.mds.stream import MdsStream

__all__ = ["MdsSource", "MdsStream"]
