"""Arithmetic without objects or state.

``plain`` is the specification in PyTorch: read it first. ``fused`` computes it in Triton kernels,
``dispatch`` chooses between them, ``noise`` is what draws are made of, ``losses`` are for training.
A faster form must agree with ``plain``; nothing here knows of batches or models.
"""
