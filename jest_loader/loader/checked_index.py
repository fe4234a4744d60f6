"""What a selector returned, on the host, once it is known to be rows of a super-batch."""

import torch
from torch import Tensor

from jest_loader.selecting.drawing import check_finite


def checked_index(index: object, size: int | None, num_candidates: int) -> Tensor:
    """The index on the host. Selectors and scores are pluggable: check what they agreed on.

    Args:
        index: What a selector returned.
        size: How many it should have; None for any number, where ranks even out.
        num_candidates: Among how many.
    """
    if not isinstance(index, Tensor):
        raise ValueError(f"a selector must return an int64 tensor, got {type(index).__name__}")
    host = index.cpu().clone()  # Rows that must be skipped are replaced in it.
    size = len(host) if size is None else size
    if host.shape != (size,) or host.dtype != torch.int64:
        raise ValueError(
            f"a selector must return int64 of shape ({size},), "
            f"got {host.dtype} of {tuple(host.shape)}"
        )
    check_finite(host)
    rows = host.tolist()
    if len(set(rows)) != size or any(not 0 <= row < num_candidates for row in rows):
        raise ValueError(
            f"a selector must return distinct rows in [0, {num_candidates}), but did not; "
            "Scores.given must set the logits of chosen candidates to minus infinity"
        )
    return host
