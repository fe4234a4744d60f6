"""The loss over ranks and by blocks is the loss of one batch, and so are its gradients."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize, softplus

from jest_loader import Embeddings
from jest_loader.clip.step.global_loss import global_loss
from jest_loader.ops import plain
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ranks.ranks import ranks_of
from jest_loader.testing import simulate_ranks

SIZES = [(13,), (7, 6), (5, 1, 7), (4, 4, 4)]


def embeddings(size: int, *, dtype=torch.float64, logit_bias: float | None = -3.0) -> Embeddings:
    generator = torch.Generator().manual_seed(size)

    def rows():
        return normalize(torch.randn(size, 6, generator=generator, dtype=torch.float64), dim=1)

    image = rows()
    text = normalize(image + 0.5 * rows(), dim=1)
    scale = torch.tensor(9.0, dtype=torch.float64)
    bias = None if logit_bias is None else torch.tensor(logit_bias, dtype=torch.float64)
    return Embeddings(image.to(dtype), text.to(dtype), scale, bias)


def by_autograd(of: Embeddings, loss):
    """The plain form's value and gradients."""
    leaves = [of.image, of.text, of.logit_scale] + (
        [] if of.logit_bias is None else [of.logit_bias]
    )
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = contrastive_loss(Embeddings(*leaves, *[None] * (of.logit_bias is None)), loss)
    return value.detach(), torch.autograd.grad(value, leaves)


def over_ranks(of: Embeddings, sizes, loss, groups=None):
    starts = [sum(sizes[:rank]) for rank in range(len(sizes))]

    def run(group):
        start = starts[group.rank]
        rows = slice(start, start + sizes[group.rank])
        own = replace(of, image=of.image[rows], text=of.text[rows])
        return global_loss(own, loss, ranks_of(group), None if groups is None else groups[rows])

    return simulate_ranks(len(sizes), run)


@pytest.fixture(params=[None, 5], ids=["one block", "blocks"])
def _blocks(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(plain, "_CPU_BLOCK_ELEMENTS", 2 * 13 + request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("bias", [-3.0, None])
def test_any_ranks_find_the_gradients_of_one_batch(sizes, loss, bias):
    of = embeddings(sum(sizes), logit_bias=bias)
    value, (image, text, scale, *rest) = by_autograd(of, loss)
    found = over_ranks(of, sizes, loss)
    for each in found:
        torch.testing.assert_close(each.value, value, rtol=1e-12, atol=0)
    close = {"rtol": 1e-10, "atol": 1e-13}
    torch.testing.assert_close(torch.cat([each.image for each in found]), image, **close)
    torch.testing.assert_close(torch.cat([each.text for each in found]), text, **close)
    torch.testing.assert_close(sum(each.logit_scale for each in found), scale, **close)
    for bias_gradient in rest:
        torch.testing.assert_close(sum(each.logit_bias for each in found), bias_gradient, **close)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_examples_of_one_group_are_not_each_others_negatives(sizes, loss):
    """As if the pairs of two of them were not there."""
    of = embeddings(sum(sizes))
    groups = torch.arange(sum(sizes)) % 5
    image, text = of.image.clone().requires_grad_(), of.text.clone().requires_grad_()
    logits, value = of.logit_scale * image @ text.T + of.logit_bias, torch.zeros(())
    for row, own in enumerate(groups):
        others = [k for k in range(len(groups)) if k == row or groups[k] != own]
        if loss == "sigmoid":
            value = value + sum(softplus((1 - 2 * (k == row)) * logits[row, k]) for k in others)
        else:
            for line in (logits[row], logits[:, row]):
                value = value + (line[others].logsumexp(dim=0) - line[row]) / 2
    (value / len(groups)).backward()
    found = over_ranks(of, sizes, loss, groups)
    close = {"rtol": 1e-10, "atol": 1e-13}
    for each in found:
        torch.testing.assert_close(each.value, value.detach() / len(groups), **close)
    torch.testing.assert_close(torch.cat([each.image for each in found]), image.grad, **close)
    torch.testing.assert_close(torch.cat([each.text for each in found]), text.grad, **close)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_it_is_in_fp32_whatever_autocast_says(loss):
    """Its error against fp64 is at most twice the plain form's outside autocast."""
    exact = embeddings(300)
    single = embeddings(300, dtype=torch.float32)
    expected = by_autograd(exact, loss)[1]
    plain = by_autograd(single, loss)[1]
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = over_ranks(single, (300,), loss)
    assert found.image.dtype == torch.float32
    for own, one, best in zip((found.image, found.text), plain, expected, strict=False):
        assert (own - best).abs().max() <= 2 * (one - best).abs().max()


def test_the_matrix_of_all_pairs_is_never_made(monkeypatch):
    largest = []
    product = torch.Tensor.__matmul__

    def recording(one, other):
        found = product(one, other)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", recording)
    over_ranks(embeddings(1500), (800, 700), "softmax")
    assert max(largest) <= plain._CPU_BLOCK_ELEMENTS + 1500
    assert max(largest) < 1500 * 700
