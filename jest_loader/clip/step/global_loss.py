"""The loss of the batch of all ranks, and its gradients with respect to one rank's embeddings.

Each rank is told everyone's embeddings and computes the gradients of its own rows: of its images
with all texts, and of its texts with all images. So the gradients count what a row does as another
rank's negative, and none has to travel back. Logits are made for a block of rows at a time.
``ops.losses.contrastive_loss`` is the specification.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import block_rows, detached, exact
from jest_loader.protocols import Loss
from jest_loader.ranks.ranks import Ranks


@dataclass(frozen=True, eq=False)
class GlobalLoss:
    """The loss of B examples, of which b are this rank's.

    Args:
        value: [], the same on all ranks.
        num_examples: B.
        image: [b, D], the gradient with respect to this rank's images.
        text: [b, D], the gradient with respect to this rank's texts.
        logit_scale: [], this rank's part of the gradient: the parts of all ranks add up to it.
        logit_bias: [], likewise.
    """

    value: Tensor
    num_examples: int
    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor


@torch.no_grad()
def global_loss(
    embeddings: Embeddings, loss: Loss, ranks: Ranks, groups: Tensor | None = None
) -> GlobalLoss:
    """``contrastive_loss`` of the examples of all ranks, in fp32 (fp64 where they are), and more.

    All ranks call it at once. It never holds more than some rows of the B x B logits.

    Args:
        embeddings: Of this rank's examples, one or more; ranks may have different numbers of them.
        loss: Which.
        ranks: Whose examples are each other's negatives.
        groups: Int64 [b], an id of each example; different examples with equal ids, on any ranks,
            are not each other's negatives: their pairs are left out. None leaves none out.
    """
    own = exact(detached(embeddings))
    with torch.autocast(own.image.device.type, enabled=False):
        counts = ranks.all_gather(torch.tensor(len(own.image))).tolist()
        pairs = torch.stack([own.image, own.text], dim=1)
        images, texts = ranks.all_gather_rows(pairs, counts).unbind(dim=1)
        same = None
        if groups is not None:
            groups = groups.to(own.image.device)
            same = _Groups(groups, ranks.all_gather_rows(groups, counts))
        logit = _Logit(sum(counts[: ranks.rank]), own.logit_scale, own.logit_bias, same)
        sides = _Side(own.image, texts, logit), _Side(own.text, images, logit)
        if loss == "sigmoid":
            by_image, by_text = (_sums(side, _sigmoid_terms) for side in sides)
        else:
            by_image, by_text = _softmax_sums(sides, counts, ranks)
        size = sum(counts)
        # Both directions have every pair; value, scale and bias are those of one of them.
        return GlobalLoss(
            ranks.all_gather(by_image.value).sum() / size,
            size,
            by_image.products * own.logit_scale / size,
            by_text.products * own.logit_scale / size,
            (own.image * by_image.products).sum() / size,
            by_image.slope / size,
        )


class _Block(NamedTuple):
    """Some rows of the logits.

    Args:
        rows: Which of this rank's rows.
        logits: [rows, B].
        pairs: Where each row's own pair stands in ``logits``.
    """

    rows: slice
    logits: Tensor
    pairs: tuple[Tensor, Tensor]


class _Groups(NamedTuple):
    """Ids of this rank's examples, int64 [b], and of everyone's, [B]."""

    own: Tensor
    everyones: Tensor


class _Logit(NamedTuple):
    """How logits are made of products.

    Args:
        first: The column of row 0's own pair.
        logit_scale: Inverse temperature.
        logit_bias: Logit bias, if there is one.
        groups: Whose pairs are left out, if any are.
    """

    first: int
    logit_scale: float | Tensor
    logit_bias: float | Tensor | None
    groups: _Groups | None


@dataclass(frozen=True, eq=False)
class _Side:
    """This rank's rows of one modality, [b, D], and everyone's of the other, [B, D]."""

    rows: Tensor
    columns: Tensor
    logit: _Logit

    def blocks(self) -> Iterator[_Block]:
        """All logits of the rows, some rows at a time."""
        size = block_rows(self.rows, len(self.columns))
        first, scale, bias, groups = self.logit
        for start in range(0, len(self.rows), size):
            rows = slice(start, start + size)
            logits = (self.rows[rows] * scale) @ self.columns.T
            logits += 0.0 if bias is None else bias
            here = torch.arange(len(logits), device=logits.device)
            pairs = (here, here + (first + start))
            if groups is not None:
                same = groups.own[rows, None] == groups.everyones
                same[pairs] = False
                logits.masked_fill_(same, -torch.inf)
            yield _Block(rows, logits, pairs)


class _Sums(NamedTuple):
    """Over the pairs of a side's rows, not yet divided by the batch size.

    Args:
        value: [], the loss.
        products: [b, D], each row's slopes (the loss by its logits) times the columns.
        slope: [], the sum of all slopes.
    """

    value: Tensor
    products: Tensor
    slope: Tensor


_Terms = Callable[[_Block], tuple[Tensor, Tensor]]
"""The value of a block, [], and its slopes, [rows, B]; may write over its logits."""


def _sums(side: _Side, terms: _Terms) -> _Sums:
    products = torch.empty_like(side.rows)
    value, slope = side.rows.new_zeros(()), side.rows.new_zeros(())
    for block in side.blocks():
        block_value, slopes = terms(block)
        value += block_value
        slope += slopes.sum()
        torch.matmul(slopes, side.columns, out=products[block.rows])
    return _Sums(value, products, slope)


def _sigmoid_terms(block: _Block) -> tuple[Tensor, Tensor]:
    logits, pairs = block.logits, block.pairs
    logits[pairs] = -logits[pairs]  # An example's own pair is the positive one.
    slopes = logits.sigmoid()
    slopes[pairs] = -slopes[pairs]
    return softplus(logits).sum(), slopes


def _softmax_sums(
    sides: tuple[_Side, _Side], counts: list[int], ranks: Ranks
) -> tuple[_Sums, _Sums]:
    """Each logit is in two log-sum-exps: its row's, and its column's, which another rank may do."""
    own = torch.stack(
        [torch.cat([b.logits.logsumexp(dim=1) for b in side.blocks()]) for side in sides], dim=1
    )
    everyones = ranks.all_gather_rows(own, counts)

    def terms(of_row: Tensor, of_column: Tensor) -> _Terms:
        def terms_of(block: _Block) -> tuple[Tensor, Tensor]:
            logits, of_rows = block.logits, of_row[block.rows]
            slopes = ((logits - of_rows[:, None]).exp() + (logits - of_column).exp()) / 2
            slopes[block.pairs] -= 1
            own_columns = of_column[block.pairs[1]]
            return ((of_rows + own_columns) / 2 - logits[block.pairs]).sum(), slopes

        return terms_of

    by_image = _sums(sides[0], terms(own[:, 0], everyones[:, 1]))
    return by_image, _sums(sides[1], terms(own[:, 1], everyones[:, 0]))
