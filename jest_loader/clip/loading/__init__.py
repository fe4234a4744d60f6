"""From shards to the ``JestDataset`` that the trainer reads."""
