"""The global random generators, from which models draw, as in dropout."""

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed PyTorch's, Python's and NumPy's generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what others may draw from


class GeneratorState(NamedTuple):
    """The state of PyTorch's generators of the CPU and of one GPU, if the device is one."""

    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "GeneratorState":
        """The present state."""
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu)

    def restore(self, device: torch.device) -> None:
        """Draw from here on what was drawn after ``now``."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, device)
