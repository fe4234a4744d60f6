"""What reads data of others, and what connects a ``JestDataset`` to their training loops.

::

    adapters/
      mds/               MdsSource, MdsStream: MosaicML MDS shards, local or fetched
      zarr/              ZarrSource: a Zarr group
      blocks/            BlockSource: any format read block by block; mds and zarr stand on it
      images/            DecodeImages: a column of encoded images to one tensor
      grain.py           GrainSource: a pipeline of Grain; grain_dataset: sub-batches as one
      jax.py             JaxEmbedder: scores with a model of JAX
      lightning.py       JestCallback for Lightning's Trainer
      composer.py        JestCallback for Composer's Trainer
      transformers.py    JestTrainerMixin for the Trainer of transformers
      open_clip/         open_clip's own trainer: python -m jest_loader.adapters.open_clip
      training_loops.py  what the four before it share

Touch what a folder's ``__init__`` exports; the modules behind it may change. A new format is a
``blocks.BlockReader`` and a subclass of ``BlockSource``, which adds batches, epochs, ranks and
exact resume.

Importing this package imports no outside package. A file named for one imports it; in folders it is
imported by the function that needs it.
"""
