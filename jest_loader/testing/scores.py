"""Whether scores read like a conditional probability."""

import torch
from torch import Tensor

from jest_loader.protocols import Scores


def assert_scores_consistent(scores: Scores, *, chosen: Tensor) -> None:
    """Check that ``scores`` read like a conditional probability.

    Args:
        scores: Scores with nothing chosen.
        chosen: Int64 [n], n >= 2, distinct candidates to condition on, fewer than there are.

    Raises:
        AssertionError: naming the property that fails.
    """
    before = scores.logits.clone()
    assert torch.isfinite(before).all(), "logits must be finite while nothing is chosen"
    at_once = scores.given(chosen).logits
    assert torch.equal(scores.logits, before), (
        "given must not change the scores that it is called on"
    )
    assert at_once.shape == before.shape, "given must keep one logit per candidate"
    assert torch.isneginf(at_once[chosen]).all(), (
        "chosen candidates must have logits of minus infinity"
    )
    left = torch.ones_like(before, dtype=torch.bool)
    left[chosen] = False
    assert torch.isfinite(at_once[left]).all(), "candidates not chosen must keep finite logits"
    half = len(chosen) // 2
    in_turn = scores.given(chosen[:half]).given(chosen[half:]).logits
    torch.testing.assert_close(
        in_turn[left],
        at_once[left],
        msg=lambda text: f"given(a).given(b) must equal given(a and b): {text}",
    )
