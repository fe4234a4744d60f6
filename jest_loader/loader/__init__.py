"""``JestDataset``: super-batches in, sub-batches out, and the position to resume from.

    source --> super-batch --> scorer --> scores --> selector --> sub-batch --> materialize

``dataset`` is what users hold, ``epoch`` one pass over the source. ``super_batch`` joins batches,
``choosing`` makes the sub-batch, ``read_ahead`` and ``side_stream`` let work run ahead,
``position`` is what a state saves. ``schedule`` changes selection over a run, ``telemetry`` tells
of it.
Users import from ``jest_loader``; everything here may change.
"""
