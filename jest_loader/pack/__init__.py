"""Turn pictures and captions, or rows of any kind, into MDS or Zarr data sets."""

from jest_loader.pack.command import PackConfig, pack, pack_command
from jest_loader.pack.records import Tally
from jest_loader.pack.writers import write_mds, write_zarr

__all__ = ["PackConfig", "Tally", "pack", "pack_command", "write_mds", "write_zarr"]
