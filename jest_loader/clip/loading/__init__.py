"""From shards to the ``JestDataset`` that the trainer reads.

``columns`` makes what the towers take of stored rows, ``build`` the data set with its scorer and
selector; ``reference``, ``cache`` and ``proxy`` are the models and embeddings that score beside the
learner.
"""
