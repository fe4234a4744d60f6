"""The arithmetic of joint selection in plain PyTorch. Any faster form must agree with this one.

Half-precision embeddings are raised to fp32 first: rounding the logits of a pair to half precision
changes which candidates are picked. Products are computed for a block of candidates against one
chunk, so no array of B x B elements exists at any time.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jest_loader.protocols import Embeddings

# 2^18 elements (1 MiB in fp32) keep a block in a CPU's cache between product, softplus and sum.
_BLOCK_ELEMENTS = 1 << 18


def exact(embeddings: Embeddings) -> Embeddings:
    """The same embeddings in fp32, or in fp64 where they are fp64."""
    dtype = torch.promote_types(embeddings.image.dtype, torch.float32)
    return replace(embeddings, image=embeddings.image.to(dtype), text=embeddings.text.to(dtype))


def detached(embeddings: Embeddings) -> Embeddings:
    """The same embeddings outside any graph: selection is not differentiated."""
    scale, bias = embeddings.scale, embeddings.bias
    return Embeddings(
        embeddings.image.detach(),
        embeddings.text.detach(),
        scale.detach() if isinstance(scale, Tensor) else scale,
        bias.detach() if isinstance(bias, Tensor) else bias,
    )


def own_logits(embeddings: Embeddings) -> Tensor:
    """[B]: the logit z_ii of each candidate's image with its own text."""
    products = (embeddings.image * embeddings.text).sum(dim=1)
    return _logits(products, embeddings)


def all_logits(embeddings: Embeddings) -> Tensor:
    """[B, B]: the logit z_ij of image i with text j; only a specification needs all of them."""
    return _logits(embeddings.image @ embeddings.text.T, embeddings)


def sigmoid_pair_loss(embeddings: Embeddings, chunk: Tensor) -> Tensor:
    """[B]: the sum over k in ``chunk`` of softplus(z_ik) + softplus(z_ki), k's own pair included.

    This is what each candidate adds to the sigmoid loss, as a negative, when it joins the chunk.
    """
    return _over_blocks(embeddings, chunk, lambda logits: softplus(logits).sum(dim=1)).sum(dim=0)


def softmax_normalisers(embeddings: Embeddings, chunk: Tensor) -> Tensor:
    """[2, B]: the log-sum-exp over k in ``chunk`` of z_ik (row 0) and of z_ki (row 1)."""
    return _over_blocks(embeddings, chunk, lambda logits: torch.logsumexp(logits, dim=1))


def _over_blocks(
    embeddings: Embeddings, chunk: Tensor, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """[2, B]: ``reduce`` of [block, chunk] logits, image to text (0) and text to image (1)."""
    directions = ((embeddings.image, embeddings.text), (embeddings.text, embeddings.image))
    out = embeddings.image.new_empty(2, len(embeddings.image))
    rows = max(1, _BLOCK_ELEMENTS // max(1, len(chunk)))
    for total, (candidates, others) in zip(out, directions, strict=True):
        drawn = others[chunk].T
        for start in range(0, len(candidates), rows):
            block = candidates[start : start + rows]
            total[start : start + rows] = reduce(_logits(block @ drawn, embeddings))
    return out


def _logits(products: Tensor, embeddings: Embeddings) -> Tensor:
    logits = products * embeddings.scale
    return logits if embeddings.bias is None else logits + embeddings.bias
