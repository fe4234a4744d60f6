"""MDS shards, MosaicML's format: a source that maps them, and folders fetched from elsewhere.

``source`` is ``MdsSource``, ``stream`` a folder of shards here or elsewhere, ``file`` a shard's
bytes, checked, ``shard`` what is in them, ``remote`` fetching into a folder with a limit.
"""

from jest_loader.adapters.mds.source import MdsSource
from jest_loader.adapters.mds.stream import MdsStream

__all__ = ["MdsSource", "MdsStream"]
