"""Scores against their definitions, and the factored form against the dense one."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from jest_loader import (
    DenseScores,
    DenseSoftmaxScores,
    Embeddings,
    ExampleScores,
    FactoredScores,
    JointSelector,
)
from jest_loader.ops.reference import sum_of_softplus
from jest_loader.testing import assert_scores_consistent
from tests.helpers import random_embeddings
from tests.published import sigmoid_pairwise, softmax_loss

CHUNKS = ([4, 0, 17], [9], [30, 2, 11, 12])


def sides(size=37, loss="sigmoid"):
    bias = -3.0 if loss == "sigmoid" else None
    learner = random_embeddings(size, 8, seed=0, scale=7.0, bias=bias)
    reference = random_embeddings(size, 12, seed=1, scale=9.0, bias=bias, agreement=2.0)
    return learner, reference


def kinds_of_score(loss):
    learner, reference = sides(loss=loss)
    return {
        "learnability": FactoredScores(learner, reference, loss),
        "easy reference": FactoredScores(reference=reference, loss=loss),
        "hard learner": FactoredScores(learner, loss=loss),
    }


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_factored_scores_equal_dense_scores(loss):
    for factored in kinds_of_score(loss).values():
        dense = factored.dense()
        torch.testing.assert_close(factored.logits, dense.logits, rtol=0, atol=1e-12)
        for chunk in CHUNKS:
            factored, dense = (s.given(torch.tensor(chunk)) for s in (factored, dense))
            torch.testing.assert_close(factored.logits, dense.logits, rtol=0, atol=1e-12)


def test_sigmoid_scores_are_the_losses_of_the_definition():
    learner, reference = sides()
    expected = sum(
        sign * sigmoid_pairwise(side.image.numpy(), side.text.numpy(), side.scale, side.bias)
        for sign, side in ((1, learner), (-1, reference))
    )
    scores = FactoredScores(learner, reference).given(torch.tensor([5, 8]))
    left = [i for i in range(37) if i not in (5, 8)]
    for i in left:
        gain = expected[i, i] + sum(expected[i, k] + expected[k, i] for k in (5, 8))
        assert scores.logits[i].item() == pytest.approx(gain, abs=1e-12)


def test_softmax_scores_are_the_losses_of_the_definition():
    learner, reference = sides(loss="softmax")
    scores = FactoredScores(learner, reference, "softmax")
    assert scores.logits.abs().max() == 0, "alone, every candidate's softmax loss is zero"
    scores = scores.given(torch.tensor([5])).given(torch.tensor([8, 1]))
    for i in (i for i in range(37) if i not in (5, 8, 1)):
        expected = sum(
            sign * softmax_loss(side.image.numpy(), side.text.numpy(), side.scale, [5, 8, 1], i)
            for sign, side in ((1, learner), (-1, reference))
        )
        assert scores.logits[i].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_all_scores_read_like_a_conditional_probability(loss):
    chosen = torch.tensor([3, 1, 20, 36])
    for scores in kinds_of_score(loss).values():
        assert_scores_consistent(scores, chosen=chosen)
        assert_scores_consistent(scores.dense(), chosen=chosen)
    assert_scores_consistent(ExampleScores(torch.arange(37.0)), chosen=chosen)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_raised_to_fp32_before_products(loss, dtype):
    learner, reference = sides(size=200, loss=loss)
    low = [
        Embeddings(side.image.to(dtype), side.text.to(dtype), side.scale, side.bias)
        for side in (learner, reference)
    ]
    same = [Embeddings(s.image.double(), s.text.double(), s.scale, s.bias) for s in low]
    found, exact = FactoredScores(*low, loss), FactoredScores(*same, loss)
    assert found.logits.dtype == torch.float32
    chunk = torch.arange(0, 100, 3)
    found, exact = found.given(chunk), exact.given(chunk)
    left = torch.isfinite(exact.logits)
    error = (found.logits.double() - exact.logits)[left].abs().max().item()
    assert error < 1e-4 * exact.logits[left].abs().max().item()


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_no_array_of_all_pairs_is_made(loss):
    """At 20,000 candidates one would take 1.6 GB; all else here takes a few MB."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    size = 20_000
    embeddings = random_embeddings(size, 8, seed=0, dtype=torch.float32)
    with Largest() as largest:
        FactoredScores(embeddings, loss=loss).given(torch.arange(100)).logits.sum()
    assert largest.elements < size * 20


def test_half_precision_example_scores_are_raised_too():
    assert ExampleScores(torch.zeros(3, dtype=torch.float16)).logits.dtype == torch.float32
    assert ExampleScores(torch.zeros(3, dtype=torch.float64)).logits.dtype == torch.float64


def test_gradients_do_not_pass_through_scores():
    embeddings = random_embeddings(10, 4, seed=0)
    live = Embeddings(
        embeddings.image.clone().requires_grad_(),
        embeddings.text,
        torch.tensor(10.0, requires_grad=True, dtype=torch.float64),
        torch.tensor(-5.0, requires_grad=True, dtype=torch.float64),
    )
    for loss in ("sigmoid", "softmax"):
        scores = FactoredScores(live, loss=loss).given(torch.tensor([1]))
        assert not scores.logits.requires_grad


def test_extreme_logits_stay_finite():
    embeddings = random_embeddings(20, 4, seed=0, scale=1e4, bias=-1e4, dtype=torch.float32)
    for loss in ("sigmoid", "softmax"):
        scores = FactoredScores(embeddings, loss=loss).given(torch.tensor([0, 1]))
        assert torch.isfinite(scores.logits[2:]).all()


GOOD = random_embeddings(6, 4, seed=0)
ONE_ROW_ZERO = GOOD.image.clone()
ONE_ROW_ZERO[2] = 0
ELSEWHERE = Embeddings(GOOD.image.to("meta"), GOOD.text.to("meta"), 10.0, -5.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FactoredScores(), "need a learner, a reference or both"),
        (lambda: FactoredScores(GOOD, loss="hinge"), "'sigmoid' or 'softmax', got 'hinge'"),
        (
            lambda: FactoredScores(GOOD, random_embeddings(5, 4, seed=0)),
            "the same candidates, got 6 and 5",
        ),
        (
            lambda: FactoredScores(GOOD, ELSEWHERE),
            "on one device, got cpu and meta; CachedReference takes device=",
        ),
        (
            lambda: FactoredScores(random_embeddings(6, 4, seed=0, bias=None)),
            r"needs a logit bias, but the learner's.*use loss='softmax'",
        ),
        (
            lambda: FactoredScores(replace(GOOD, text=3.7 * GOOD.text)),
            r"unit norm, but 6 of the learner's have not \(row 0 of its text .* has norm 3.7\)",
        ),
        (
            lambda: FactoredScores(GOOD, replace(GOOD, image=ONE_ROW_ZERO)),
            r"but 1 of the reference's have not \(row 2 of its image embeddings has norm 0\)",
        ),
        (
            lambda: FactoredScores(replace(GOOD, scale=-2.0)),
            "scale must be positive and finite and its bias finite, got -2.0 and -5.0 from the lea",
        ),
        (lambda: FactoredScores(replace(GOOD, scale=math.inf)), "positive and finite .* got inf"),
        (lambda: FactoredScores(replace(GOOD, bias=torch.tensor(math.nan))), "got 10.0 and nan"),
        (lambda: Embeddings(torch.rand(6, 4), torch.rand(6, 5), 1.0), r"got \(6, 4\) and \(6, 5\)"),
        (
            lambda: replace(GOOD, scale=torch.ones(2)),
            r"scale must be a number or a tensor of one element, got shape \(2,\)",
        ),
        (lambda: Embeddings(torch.rand(6), torch.rand(6), 1.0), r"got \(6,\) and \(6,\)"),
        (
            lambda: Embeddings(torch.rand(6, 4), torch.rand(6, 4).half(), 1.0),
            "one floating-point dtype, got torch.float32 and torch.float16",
        ),
        (lambda: Embeddings(*torch.ones(2, 6, 4).long(), 1.0), "got torch.int64"),
        (
            lambda: DenseScores(torch.rand(4, 5)),
            r"square floating-point matrix, got shape \(4, 5\)",
        ),
        (lambda: DenseSoftmaxScores(), "got neither"),
        (lambda: DenseSoftmaxScores(torch.rand(4)), "logits must be a square"),
        (lambda: ExampleScores([1.0, 2.0]), "must be a tensor, got list; use torch.as_tensor"),
        (lambda: ExampleScores(torch.rand(4, 1)), r"per candidate, got shape \(4, 1\)"),
        (lambda: ExampleScores(torch.arange(4)), "per candidate, got .* of torch.int64"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("dtype", "scale", "warns"),
    [
        (torch.float16, 500.0, False),
        (torch.float16, 600.0, True),
        (torch.bfloat16, 60.0, False),
        (torch.bfloat16, 100.0, True),
        (torch.float32, 1e4, False),
    ],
)
def test_a_dtype_too_coarse_for_the_scale_is_warned_of(dtype, scale, warns):
    side = random_embeddings(20, 8, seed=0, scale=scale, dtype=dtype)
    expected = pytest.warns(UserWarning, match=rf"learner's embeddings are {dtype}, which is too")
    with expected if warns else nullcontext():
        FactoredScores(side)


def test_scale_and_bias_may_have_one_element():
    side = replace(GOOD, scale=torch.tensor([10.0]), bias=torch.tensor([-5.0]))
    found, expected = (FactoredScores(s).given(torch.tensor([1])) for s in (side, GOOD))
    torch.testing.assert_close(found.logits, expected.logits)


def test_a_row_that_is_not_finite_is_that_candidates_fault_alone():
    side = random_embeddings(20, 8, seed=0)
    side.image[3] = math.nan
    scores = FactoredScores(side)
    assert torch.isnan(scores.logits).nonzero().tolist() == [[3]]
    picks = JointSelector(4).select(scores, 19, seed=0, step=0)
    assert sorted(picks.tolist()) == [*range(3), *range(4, 20)]


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
def test_sums_of_softplus_are_as_exact_as_term_by_term(scale):
    logits = scale * torch.randn(50, 777)
    exact = softplus(logits.double()).sum(dim=1)
    error, tolerated = (
        (found - exact).abs().max().item()
        for found in (sum_of_softplus(logits), softplus(logits).sum(dim=1))
    )
    assert error <= 2 * tolerated


def test_the_consistency_check_catches_scores_that_are_not():
    class Forgetful(ExampleScores):
        def given(self, chosen):
            return self

    with pytest.raises(AssertionError, match="minus infinity"):
        assert_scores_consistent(Forgetful(torch.zeros(5)), chosen=torch.tensor([0, 1]))

    class Shifting(DenseScores):
        def given(self, chosen):
            out = super().given(chosen)
            out.logits = out.logits + math.pi
            return out

    with pytest.raises(AssertionError, match=r"given\(a\)\.given\(b\)"):
        assert_scores_consistent(Shifting(torch.rand(5, 5)), chosen=torch.tensor([0, 1]))
