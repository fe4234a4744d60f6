"""A source over any format that can be read block by block, with epochs, ranks and exact resume.

::

    source          BlockSource: where it stands, and the pass that is under way
    epoch_pass      one pass over an epoch, batch by batch
    loaded_window   what a rank needs of a window, read
    state           a position as plain JSON values, checked when loaded
    plan            which rows of an epoch make up the batches of a rank
    options         SourceOptions: the keyword arguments of all sources
    reader          BlockReader, Rows: what a format has to offer
    columns         what rows are delivered as
    scratch         memory that is used again
    paths           which files: folders, patterns, braces
    open_file       a file that is read where it is looked at
    threads         reads several blocks at once
    order           which rows come when, as a function of (seed, epoch)

A format implements ``BlockReader``; users see ``BlockSource`` through its subclasses.
"""

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
