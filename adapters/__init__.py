"""Data formats to read, and images to decode.

::

    adapters/
      mds/      MdsSource, MdsStream: MosaicML MDS shards, local or fetched
      zarr/     ZarrSource: a Zarr group
      images/   DecodeImages: a column of encoded images to one tensor
      blocks/   BlockSource: any format that can be read block by block; mds and zarr stand on it

Touch what a folder's ``__init__`` exports; the modules behind it may change. A new format is a
``blocks.BlockReader`` and a subclass of ``BlockSource``, which adds batches, epochs, ranks and
exact resume.

Importing this package imports no outside package; each is imported by the function that needs it.
"""
