"""Running a tower's blocks, with or without activation checkpointing."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_blocks(
    blocks: Iterable[nn.Module], hidden: Tensor, *shared: Tensor | None, checkpointing: bool
) -> Tensor:
    """The output of the last block.

    Args:
        blocks: Called one after the other, each on the output before; they draw no random numbers.
        hidden: The first block's input.
        shared: Further inputs, the same for all blocks.
        checkpointing: Keep only each block's input, and run the block again in the backward pass.
    """
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            # Blocks draw no random numbers, so no generator has to be put back.
            hidden = checkpoint(
                block, hidden, *shared, use_reentrant=False, preserve_rng_state=False
            )
        else:
            hidden = block(hidden, *shared)
    return hidden
