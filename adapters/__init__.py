"""One file per outside thing: data formats to read and frameworks to work with.

Importing this package imports none of them; each is imported by the function that needs it.

All data formats share ``order`` (which rows come when), ``columns`` (what they are delivered as)
and ``blocks`` (which turns anything that reads a block of rows into a source with batches, epochs
and exact resume). ``mds`` and ``zarr`` only read blocks.
"""
