"""Processes that select one sub-batch together, each from its own candidates.

``ranks`` is who they are and how they talk, ``rank_scores`` conditions scores on what all chose,
``agreement`` keeps them in step, ``exchange`` moves rows. Only ``torch.distributed`` is used.
Users see ``group=`` and the errors; everything here may change.
"""
