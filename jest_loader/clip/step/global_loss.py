"""The contrastive loss over all ranks, and its gradients with respect to one rank's embeddings.

The ranks gather all embeddings. Each computes the gradients of its own rows: its images against all
texts, and its texts against all images. These include what a row contributes as a negative of other
ranks' rows, so no gradient is sent back. ``ops.losses.contrastive_loss`` is the specification.

It is written by hand, without autograd, so that it never holds the B x B logits: autograd through a
gathered batch would keep them all for the backward pass, and send gradients back to each rank.
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
    """The loss of B examples, b of them on this rank, and its gradients.

    Args:
        value: [], the loss, the same on all ranks.
        image: [b, D], gradient with respect to this rank's image embeddings.
        text: [b, D], gradient with respect to this rank's text embeddings.
        logit_scale: [], this rank's term of the gradient, which is the sum over ranks.
        logit_bias: [], this rank's term of the gradient, which is the sum over ranks.
    """

    value: Tensor
    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor


@torch.no_grad()
def global_loss(
    embeddings: Embeddings, loss: Loss, ranks: Ranks, groups: Tensor | None = None
) -> GlobalLoss:
    """``contrastive_loss`` of the examples of all ranks with its gradients, in fp32 (fp64 of fp64).

    All ranks call it at once. It holds a block of rows of the B x B logits at a time.

    Args:
        embeddings: Of this rank's examples, at least one; ranks may have different numbers.
        loss: The contrastive loss.
        ranks: The processes whose examples are each other's negatives.
        groups: Int64 [b], a group of each example. Different examples of one group, on any ranks,
            are not each other's negatives: the loss leaves their pairs out. None has no groups.
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
        # Every pair is in both directions, so value, scale and bias are taken from one of them.
        return GlobalLoss(
            ranks.all_gather(by_image.value).sum() / size,
            by_image.products * own.logit_scale / size,
            by_text.products * own.logit_scale / size,
            (own.image * by_image.products).sum() / size,
            by_image.slope / size,
        )


class _Block(NamedTuple):
    """Some rows of the logits.

    Args:
        rows: Their place among this rank's rows.
        logits: [rows, B].
        pairs: Row and column of each row's positive in ``logits``.
    """

    rows: slice
    logits: Tensor
    pairs: tuple[Tensor, Tensor]


class _Groups(NamedTuple):
    """Groups of this rank's examples, int64 [b], and of all examples, int64 [B]."""

    own: Tensor
    of_all: Tensor


class _Logit(NamedTuple):
    """How products of embeddings become logits.

    Args:
        first: The column of row 0's positive.
        logit_scale: Inverse temperature.
        logit_bias: Logit bias; None for the softmax loss.
        groups: Groups whose inner pairs are left out; None leaves out none.
    """

    first: int
    logit_scale: float | Tensor
    logit_bias: float | Tensor | None
    groups: _Groups | None


@dataclass(frozen=True, eq=False)
class _Side:
    """This rank's embeddings of one modality, [b, D], and all of the other, [B, D]."""

    rows: Tensor
    columns: Tensor
    logit: _Logit

    def blocks(self) -> Iterator[_Block]:
        """The logits of all rows, a block of rows at a time."""
        size = block_rows(self.rows, len(self.columns))
        first, scale, bias, groups = self.logit
        for start in range(0, len(self.rows), size):
            rows = slice(start, start + size)
            logits = (self.rows[rows] * scale) @ self.columns.T
            logits += 0.0 if bias is None else bias
            here = torch.arange(len(logits), device=logits.device)
            pairs = (here, here + (first + start))
            if groups is not None:
                same = groups.own[rows, None] == groups.of_all
                same[pairs] = False
                logits.masked_fill_(same, -torch.inf)
            yield _Block(rows, logits, pairs)


class _Sums(NamedTuple):
    """Sums over the pairs of a side's rows, not yet divided by the batch size.

    Args:
        value: [], of the loss.
        products: [b, D], of each row's slopes (derivatives of the loss by its logits) times the
            columns.
        slope: [], of all slopes.
    """

    value: Tensor
    products: Tensor
    slope: Tensor


_Terms = Callable[[_Block], tuple[Tensor, Tensor]]
"""The loss of a block, [], and its slopes, [rows, B]; may overwrite the block's logits."""


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
    logits[pairs] = -logits[pairs]  # Positives.
    slopes = logits.sigmoid()
    slopes[pairs] = -slopes[pairs]
    return softplus(logits).sum(), slopes


def _softmax_sums(
    sides: tuple[_Side, _Side], counts: list[int], ranks: Ranks
) -> tuple[_Sums, _Sums]:
    """Each logit is in the log-sum-exps of its row and of its column, maybe of another rank."""
    own = torch.stack(
        [torch.cat([b.logits.logsumexp(dim=1) for b in side.blocks()]) for side in sides], dim=1
    )
    of_all = ranks.all_gather_rows(own, counts)

    def terms(of_row: Tensor, of_column: Tensor) -> _Terms:
        def terms_of(block: _Block) -> tuple[Tensor, Tensor]:
            logits, of_rows = block.logits, of_row[block.rows]
            slopes = ((logits - of_rows[:, None]).exp() + (logits - of_column).exp()) / 2
            slopes[block.pairs] -= 1
            own_columns = of_column[block.pairs[1]]
            return ((of_rows + own_columns) / 2 - logits[block.pairs]).sum(), slopes

        return terms_of

    by_image = _sums(sides[0], terms(own[:, 0], of_all[:, 1]))
    return by_image, _sums(sides[1], terms(own[:, 1], of_all[:, 0]))
