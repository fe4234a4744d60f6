"""From a super-batch to scores: scorers, the embedders that they are made of, and the scores.

``learnability`` and ``per_example`` hold the scorers; ``models`` the embedders that run a model, by
``runner``, within ``memory``, as ``wrappers`` allow; ``column_reference`` one that reads columns.
``scores`` is what runs and ``dense`` its specification; ``groups`` are ids of equal captions.
Users import from ``jest_loader``; a new scorer belongs here.
"""
