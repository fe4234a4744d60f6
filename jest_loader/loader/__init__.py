"""``JestDataset``: super-batches in, sub-batches out, and the position to resume from.

    dataset        JestDataset, what users hold; the only holder of the position
    options        how it runs: seed, schedule, overlap, limits
    arguments      all that it is made of, once it is known to fit
    epoch          one pass over the source
    super_batch    the source's batches, prepared and joined, with how they are chosen from
    choosing       from a super-batch to its sub-batch; checked_index, what the selector returned
      seen_candidates  those that the reference was trained on; emitting, its embeddings
    choice         a sub-batch on its way to the training loop
    read_ahead     a thread that works ahead; side_stream, its CUDA stream
    position       what a state saves
    schedule       selection that changes over a run
    telemetry      what was read, scored and trained on, and what it took
    remarks        what the log says once

Users import from ``jest_loader``; everything here may change.
"""
