"""A source over anything that reads blocks of rows: batches, epochs, ranks and exact resume."""

from jest_loader.adapters.blocks.columns import Table
from jest_loader.adapters.blocks.options import SourceKeywords, SourceOptions
from jest_loader.adapters.blocks.reader import BlockReader, Rows
from jest_loader.adapters.blocks.scratch import Scratch
from jest_loader.adapters.blocks.source import BlockSource

__all__ = [
    "BlockReader",
    "BlockSource",
    "Rows",
    "Scratch",
    "SourceKeywords",
    "SourceOptions",
    "Table",
]
