"""open_clip's own trainer, ``open_clip_train``, on sub-batches chosen from super-batches.

::

    python -m jest_loader.adapters.open_clip --jest-OPTIONS -- OPEN_CLIP_TRAIN'S OWN ARGUMENTS

Its loop, its models, its losses and its checkpoints stay its own: two of its functions are wrapped
while it runs, the one that opens the data and the one that trains for an epoch. A third, which
reads checkpoints, says what is wrong with one.

    options      what is typed before the --, and what does not go with what comes after it
    files        what is wrong with a csv or a checkpoint
    rows         the trainer's rows as a source that is in the same order in each run
    reference    one of open_clip's models as the reference, or a cache of what it says of a csv
    sub_batches  what the trainer iterates in place of its own loader
    run          the two functions, and the state beside each checkpoint
"""

from jest_loader.adapters.open_clip.command import main

__all__ = ["main"]
