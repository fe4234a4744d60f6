"""A source over anything that reads blocks of rows: batches, epochs, ranks and exact resume.

``source`` is ``BlockSource``; ``order`` says which rows come when, ``columns`` what they are
delivered as, ``threads`` reads several blocks at once. MDS and Zarr only read blocks.
"""

from jest_loader.adapters.blocks.source import BlockReader, BlockSource

__all__ = ["BlockReader", "BlockSource"]
