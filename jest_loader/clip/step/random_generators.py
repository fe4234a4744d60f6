"""The global random generators, for models that draw from them, as in dropout."""

import random

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed PyTorch's, Python's and NumPy's generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what others may draw from
