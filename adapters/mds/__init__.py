"""MosaicML's MDS shards: a source that reads them where they are or fetches them first.

::

    source        MdsSource: batches from one or several folders of shards
    stream        MdsStream: where a folder of shards is, local or remote
    reader        reads shards as blocks
    rows          rows of shards, decoded when they are taken
    shard         takes the bytes of a shard apart
    images        decodes the images of a value
    folder        the shards of a stream
    index         what the index.json says of them
    shard_info    what it says of one, checked
    shard_files   opens their files, and checks them against the index
    inflate       decompresses into as many bytes as the index says
    shard_bytes   a shard's bytes, in an open file or in memory
"""

from jest_loader.adapters.mds.source import MdsSource
from jest_loader.adapters.mds.stream import MdsStream

__all__ = ["MdsSource", "MdsStream"]
