"""The arithmetic of joint selection in plain PyTorch. Any faster form must agree with this one.

Half-precision embeddings are raised to fp32 first: rounding the logits of a pair to half precision
changes which candidates are picked. Products are computed for a block of candidates against one
chunk, so no array of B x B elements exists at any time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings

# 1 MiB in fp32 keeps a block in a CPU's cache between product, exponential and sum. An accelerator
# wants few launches instead, and has the memory for 128 MiB.
_CPU_BLOCK_ELEMENTS = 1 << 18
_BLOCK_ELEMENTS = 1 << 25

# Factors 1 + exp(-|z|) are at most 2, so a product of 64 of them is far from overflow in fp32.
_FACTORS_PER_LOG = 64


class Groups(NamedTuple):
    """Group ids: a candidate and a member of the chunk with equal ids are not negatives.

    Args:
        candidates: Int64 [B], the id of each candidate.
        chunk: Int64 [n], the id of each member of the chunk.
    """

    candidates: Tensor
    chunk: Tensor


class Pairs:
    """The pairs of a model's B images and B texts, computed for one chunk at a time.

    Args:
        embeddings: The model's embeddings of the B candidates.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = exact(detached(embeddings))
        self._given_dtype = embeddings.image.dtype

    def own_logits(self) -> Tensor:
        """[B]: the logit z_ii of each candidate's image with its own text."""
        return own_logits(self.embeddings)

    def rows(self, chosen: Tensor) -> Tensor:
        """[2, n, D]: the images (0) and texts (1) of ``chosen`` (int64 [n]), in their own dtype.

        The methods below take such rows as their chunk; they may also be of other candidates that
        the same model embedded.
        """
        sides = (self.embeddings.image, self.embeddings.text)
        return torch.stack([side[chosen] for side in sides]).to(self._given_dtype)

    def sigmoid_loss(self, chunk: Tensor, groups: Groups | None = None) -> Tensor:
        """[B]: the sum over k in ``chunk`` of softplus(z_ik) + softplus(z_ki), also for k = i.

        A candidate i that joins the chunk adds this to the sigmoid loss as a negative. With
        ``groups`` the sum skips every k with i's id.
        """
        return self._over_blocks(chunk, groups, sum_of_softplus).sum(dim=0)

    def softmax_normalisers(self, chunk: Tensor, groups: Groups | None = None) -> Tensor:
        """[2, B]: the log-sum-exp over k in ``chunk`` of z_ik (row 0) and of z_ki (row 1).

        With ``groups`` it skips every k with i's id; it is minus infinity if none is left.
        """
        return self._over_blocks(chunk, groups, lambda logits: torch.logsumexp(logits, dim=1))

    def _over_blocks(
        self, chunk: Tensor, groups: Groups | None, reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """[2, B]: ``reduce`` of [block, chunk] logits, image to text (0) and text to image (1)."""
        image, text = self.embeddings.image, self.embeddings.text
        scale, bias = self.embeddings.logit_scale, self.embeddings.logit_bias
        out = image.new_empty(2, len(image))
        rows = block_rows(image, chunk.shape[1])
        images, texts = chunk.to(image.dtype)
        for total, candidates, others in zip(out, (image, text), (texts, images), strict=True):
            drawn = (others * scale).T
            for start in range(0, len(candidates), rows):
                block = slice(start, start + rows)
                logits = candidates[block] @ drawn
                logits += 0.0 if bias is None else bias
                if groups is not None:
                    same = groups.candidates[block, None] == groups.chunk
                    logits.masked_fill_(same, -torch.inf)
                total[block] = reduce(logits)
        return out


def exact(embeddings: Embeddings) -> Embeddings:
    """The same embeddings in fp32, or in fp64 where they are fp64."""
    dtype = exact_dtype(embeddings.image.dtype)
    return replace(embeddings, image=embeddings.image.to(dtype), text=embeddings.text.to(dtype))


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of computation: fp64 for fp64, and fp32 for all others."""
    return torch.promote_types(dtype, torch.float32)


def detached(embeddings: Embeddings) -> Embeddings:
    """The same embeddings outside any graph: selection is not differentiated."""
    scale, bias = embeddings.logit_scale, embeddings.logit_bias
    return replace(
        embeddings,
        image=embeddings.image.detach(),
        text=embeddings.text.detach(),
        logit_scale=scale.detach().reshape(()) if isinstance(scale, Tensor) else scale,
        logit_bias=bias.detach().reshape(()) if isinstance(bias, Tensor) else bias,
    )


def own_logits(embeddings: Embeddings) -> Tensor:
    """[B]: the logit z_ii of each candidate's image with its own text, in fp32 or fp64."""
    image, text = embeddings.image, embeddings.text
    dtype = exact_dtype(image.dtype)
    products = image.new_empty(len(image), dtype=dtype)
    rows = block_rows(image, image.shape[1])
    for start in range(0, len(image), rows):
        block = slice(start, start + rows)
        products[block] = (image[block].to(dtype) * text[block].to(dtype)).sum(dim=1)
    return _logits(products, embeddings)


def all_logits(embeddings: Embeddings) -> Tensor:
    """[B, B]: the logit z_ij of image i with text j. Only the specification holds all of them."""
    return _logits(embeddings.image @ embeddings.text.T, embeddings)


def same_group(groups: Tensor) -> Tensor:
    """Bool [B, B]: pairs of different examples whose ids (int64 [B]) are equal."""
    own = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    return (groups[:, None] == groups) & ~own


def sum_of_softplus(logits: Tensor) -> Tensor:
    """[rows]: the sum over columns of softplus(z) = max(z, 0) + log(1 + exp(-|z|)).

    A sum of logarithms is the logarithm of a product, so many pairs share one logarithm.
    """
    total = logits.clamp(min=0).sum(dim=1)
    factors = logits.abs().neg_().exp_().add_(1)
    for start in range(0, factors.shape[1], _FACTORS_PER_LOG):
        total += factors[:, start : start + _FACTORS_PER_LOG].prod(dim=1).log_()
    return total


def block_rows(candidates: Tensor, columns: int) -> int:
    """How many candidates a block has; blocks are about equal, as a small rest wastes threads."""
    elements = _CPU_BLOCK_ELEMENTS if candidates.is_cpu else _BLOCK_ELEMENTS
    num_blocks = math.ceil(len(candidates) * columns / elements)
    return math.ceil(len(candidates) / max(1, num_blocks))


def _logits(products: Tensor, embeddings: Embeddings) -> Tensor:
    logits = products * embeddings.logit_scale
    return logits if embeddings.logit_bias is None else logits + embeddings.logit_bias
