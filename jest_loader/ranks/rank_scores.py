"""Scores of one rank's candidates, conditioned on what all ranks choose."""

import torch
from torch import Tensor

from jest_loader.protocols import Scores, SharedScores
from jest_loader.ranks.ranks import Ranks


class RankScores:
    """Scores of this rank's candidates, conditioned on what all ranks choose.

    ``given`` is called with this rank's own choice, on all ranks at once: they tell each other the
    embeddings of what they chose, and of nothing else.

    Args:
        scores: Of this rank's candidates.
        ranks: Who selects together.
        half: Whether embeddings wider than 16 bits are rounded to fp16 on their way.
        even: Whether all ranks choose equally many each time, so that they need not say how many,
            which an accelerator would have to be waited for.
    """

    def __init__(
        self, scores: Scores, ranks: Ranks, *, half: bool = False, even: bool = False
    ) -> None:
        self.local = scores
        self.ranks = ranks
        self._half, self._even = half, even

    @property
    def logits(self) -> Tensor:
        """Float [B / ranks]."""
        return self.local.logits

    @property
    def needs_context(self) -> bool:
        """As of the scores."""
        return getattr(self.local, "needs_context", False)

    def given(self, chosen: Tensor) -> "RankScores":
        """The scores once ``chosen`` (int64 [n], own candidates) and the others' are chosen."""
        ranks = self.ranks
        if not ranks.joint:
            return RankScores(self.local.given(chosen), ranks)
        if not isinstance(self.local, SharedScores):
            raise ValueError(
                "conditioning on other ranks' choices needs scores with share and given_shared, "
                f"got {type(self.local).__name__}; use FactoredScores or ExampleScores, or a "
                "selector with quota='local'"
            )
        shared = self.local.share(chosen)
        if shared:
            counts = [len(chosen)] * ranks.size
            if not self._even:
                counts = ranks.all_gather(torch.tensor(len(chosen))).tolist()
            shared = [self._gathered(rows, counts) for rows in shared]
        given = self.local.given_shared(chosen, shared)
        return RankScores(given, ranks, half=self._half, even=self._even)

    def _gathered(self, rows: Tensor, counts: list[int]) -> Tensor:
        wide = rows.is_floating_point() and rows.element_size() > 2  # Ids of groups stay whole.
        sent = rows.half() if self._half and wide else rows
        return self.ranks.all_gather_rows(sent, counts).to(rows.dtype)
