"""Running a tower's blocks, with or without what they computed kept for the backward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def through(
    blocks: Iterable[nn.Module], hidden: Tensor, *given: Tensor | None, checkpointing: bool
) -> Tensor:
    """What comes out of the last block.

    Args:
        blocks: Each is called with what the one before it made; they draw no random numbers.
        hidden: What the first one takes.
        given: What all of them take besides.
        checkpointing: Keep only what goes into each block, and run it again in the backward pass.
    """
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            # No random numbers, so there is no state of theirs to put back.
            hidden = checkpoint(
                block, hidden, *given, use_reentrant=False, preserve_rng_state=False
            )
        else:
            hidden = block(hidden, *given)
    return hidden
