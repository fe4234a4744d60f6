"""Scores of one rank's candidates, conditioned on what all ranks choose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jest_loader.protocols import ContextScores, Scores, SharedScores
from jest_loader.ranks.ranks import Ranks


@dataclass(frozen=True, eq=False)
class RankScores:
    """Scores of this rank's candidates, conditioned on what all ranks choose.

    ``given`` is called with this rank's own choice, on all ranks at once: they tell each other the
    embeddings of what they chose, and of nothing else.

    Args:
        local: The scores of this rank's candidates.
        ranks: Who selects together.
        skipped: Int64 [n], candidates that are not to be drawn; None for none.
        half: Whether embeddings wider than 16 bits are rounded to fp16 on their way.
    """

    local: Scores
    ranks: Ranks
    skipped: Tensor | None = None
    half: bool = False

    @property
    def logits(self) -> Tensor:
        """Float [B / ranks]."""
        logits = self.local.logits
        if self.skipped is None or not len(self.skipped):
            return logits
        return logits.index_fill(0, self.skipped, -torch.inf)

    @property
    def needs_context(self) -> bool:
        """Whether the scores are equal for all candidates until some are chosen."""
        return isinstance(self.local, ContextScores) and self.local.needs_context

    def alone(self) -> "RankScores":
        """The same scores, selected from without the other ranks."""
        return replace(self, ranks=self.ranks.alone())

    def given(self, chosen: Tensor, counts: Sequence[int] | None = None) -> "RankScores":
        """The scores once ``chosen`` (int64 [n], own candidates) and the others' are chosen.

        Args:
            chosen: What this rank chose.
            counts: How many each rank chose; None asks them.
        """
        if not self.ranks.joint:
            return replace(self, local=self.local.given(chosen))
        if not isinstance(self.local, SharedScores):
            raise ValueError(
                "conditioning on other ranks' choices needs scores with share and given_shared, "
                f"got {type(self.local).__name__}; use FactoredScores or ExampleScores, or a "
                "selector with quota='local'"
            )
        shared = self.local.share(chosen)
        if shared:
            if counts is None:
                counts = self.ranks.all_gather(torch.tensor(len(chosen))).tolist()
            shared = [self._gathered(rows, counts) for rows in shared]
        return replace(self, local=self.local.given_shared(chosen, shared))

    def _gathered(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        wide = rows.is_floating_point() and rows.element_size() > 2  # Ids of groups stay whole.
        sent = rows.half() if self.half and wide else rows
        return self.ranks.all_gather_rows(sent, counts).to(rows.dtype)
