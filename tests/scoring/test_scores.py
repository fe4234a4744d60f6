"""Scores against their definitions, and the factored form against the dense one."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

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
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ops.plain import sum_of_softplus
from jest_loader.scoring.scores import rows_of
from jest_loader.testing import assert_scores_consistent
from tests.helpers import random_embeddings
from tests.published import sigmoid_pairwise, softmax_loss

CHUNKS = ([4, 0, 17], [9], [30, 2, 11, 12])


def sides(size=37, loss="sigmoid"):
    bias = -3.0 if loss == "sigmoid" else None
    learner = random_embeddings(size, 8, seed=0, logit_scale=7.0, logit_bias=bias)
    reference = random_embeddings(size, 12, seed=1, logit_scale=9.0, logit_bias=bias, agreement=2.0)
    return learner, reference


def kinds_of_score(loss):
    learner, reference = sides(loss=loss)
    return {
        "learnability": FactoredScores(learner, reference, loss),
        "easy reference": FactoredScores(reference=reference, loss=loss),
        "hard learner": FactoredScores(learner, loss=loss),
    }


def test_scores_have_the_reasons_of_both_sides():
    learner, reference = sides(5)
    learner = replace(learner, skipped={1: "torn", 3: "no text"})
    reference = replace(reference, skipped={3: "not cached", 4: "not cached"})
    merged = {1: "torn", 3: "no text", 4: "not cached"}
    for scores, skipped in (
        (FactoredScores(learner, reference), merged),
        (FactoredScores(reference=reference), {3: "not cached", 4: "not cached"}),
        (FactoredScores(learner), {1: "torn", 3: "no text"}),
        (ExampleScores(torch.zeros(5), merged), merged),
        (ExampleScores(torch.zeros(5)), {}),
    ):
        assert scores.skipped == skipped
        assert scores.given(torch.tensor([0])).skipped == skipped
        assert scores.rows(torch.tensor([0, 2])).skipped == {}
    assert rows_of(learner, torch.tensor([0, 2])).skipped == {}


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
        sign
        * sigmoid_pairwise(side.image.numpy(), side.text.numpy(), side.logit_scale, side.logit_bias)
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
            sign
            * softmax_loss(side.image.numpy(), side.text.numpy(), side.logit_scale, [5, 8, 1], i)
            for sign, side in ((1, learner), (-1, reference))
        )
        assert scores.logits[i].item() == pytest.approx(expected, abs=1e-12)


GROUPS = torch.tensor([row % 7 if row % 3 else 100 + row for row in range(37)])


def summed_by_hand(side, loss, members):
    """The loss of a batch by its definition, pair by pair, without pairs of one group."""
    z = side.logit_scale * side.image @ side.text.T + (side.logit_bias or 0.0)
    total = 0.0
    for i in members:
        negatives = [j for j in members if j != i and GROUPS[i] != GROUPS[j]]
        if loss == "sigmoid":
            total += softplus(-z[i, i]) + sum(softplus(z[i, j]) for j in negatives)
        else:
            for row in (z[i], z[:, i]):
                total += (row[[i, *negatives]].logsumexp(0) - row[i]) / 2
    return float(total)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_group_has_no_negatives_within_it(loss):
    """By hand: a sub-batch's mean score, and what a candidate's conditional score is."""
    learner, reference = sides(loss=loss)
    scores = FactoredScores(learner, reference, loss, groups=GROUPS)
    by_hand = [summed_by_hand(side, loss, range(37)) / 37 for side in (learner, reference)]
    assert scores.mean().item() == pytest.approx(by_hand[0] - by_hand[1], abs=1e-12)
    some = torch.tensor([1, 8, 15, 3, 4, 11])
    by_hand = [summed_by_hand(side, loss, some.tolist()) / 6 for side in (learner, reference)]
    assert scores.rows(some).mean().item() == pytest.approx(by_hand[0] - by_hand[1], abs=1e-12)
    assert scores.mean() != FactoredScores(learner, reference, loss).mean()
    if loss == "sigmoid":
        given = scores.given(some)
        with_one_more = [
            summed_by_hand(side, loss, [*some.tolist(), 22])
            - summed_by_hand(side, loss, some.tolist())
            for side in (learner, reference)
        ]
        expected = with_one_more[0] - with_one_more[1]
        assert given.logits[22].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_factored_scores_with_groups_equal_dense_scores_with_groups(loss):
    learner, reference = sides(loss=loss)
    for given in ((learner, reference), (None, reference), (learner, None)):
        factored = FactoredScores(*given, loss, groups=GROUPS)
        dense: Any = factored.dense()
        torch.testing.assert_close(factored.mean(), dense.mean(), rtol=0, atol=1e-12)
        assert_scores_consistent(factored, chosen=torch.tensor([3, 1, 8, 15]))
        some = torch.tensor([1, 8, 15, 3, 0])
        torch.testing.assert_close(factored.rows(some).mean(), dense.rows(some).mean())
        for chunk in CHUNKS:
            factored, dense = (s.given(torch.tensor(chunk)) for s in (factored, dense))
            torch.testing.assert_close(factored.logits, dense.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_groups_of_one_change_nothing_and_one_group_leaves_no_negatives(loss):
    learner, reference = sides(loss=loss)
    plain, apart, together = (
        FactoredScores(learner, reference, loss, groups=groups)
        for groups in (None, torch.arange(37) * 2**40, torch.full((37,), -5))
    )
    alone = together.logits
    for chunk in CHUNKS:
        plain, apart, together = (s.given(torch.tensor(chunk)) for s in (plain, apart, together))
        torch.testing.assert_close(apart.logits, plain.logits, rtol=0, atol=1e-12)
        left = torch.isfinite(together.logits)
        assert torch.equal(together.logits[left], alone[left])


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_training_loss_leaves_out_the_same_pairs(loss):
    learner, _ = sides(loss=loss)
    with_gradient = replace(learner, image=learner.image.clone().requires_grad_())
    found = contrastive_loss(with_gradient, loss, GROUPS)
    by_hand = summed_by_hand(learner, loss, range(37)) / 37
    assert found.item() == pytest.approx(by_hand, abs=1e-12)
    found.backward()
    assert torch.isfinite(with_gradient.image.grad).all()
    ungrouped = contrastive_loss(learner, loss)
    assert torch.equal(contrastive_loss(learner, loss, torch.arange(37)), ungrouped)
    # A text of the same group, at whatever place, is nothing to an image.
    others = learner.text.clone()
    others[8] = -others[8]
    (gradient,) = torch.autograd.grad(
        contrastive_loss(replace(with_gradient, text=others), loss, GROUPS), with_gradient.image
    )
    assert GROUPS[1] == GROUPS[8]
    if loss == "sigmoid":
        torch.testing.assert_close(gradient[1], with_gradient.image.grad[1])
    assert not torch.allclose(gradient[2], with_gradient.image.grad[2])


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
        Embeddings(side.image.to(dtype), side.text.to(dtype), side.logit_scale, side.logit_bias)
        for side in (learner, reference)
    ]
    same = [Embeddings(s.image.double(), s.text.double(), s.logit_scale, s.logit_bias) for s in low]
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
    embeddings = random_embeddings(
        20, 4, seed=0, logit_scale=1e4, logit_bias=-1e4, dtype=torch.float32
    )
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
            lambda: FactoredScores(random_embeddings(6, 4, seed=0, logit_bias=None)),
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
            lambda: FactoredScores(replace(GOOD, logit_scale=-2.0)),
            "the learner's logit_scale must be positive .*, got -2.0 and -5.0",
        ),
        (
            lambda: FactoredScores(replace(GOOD, logit_scale=math.inf)),
            "positive and finite .* got inf",
        ),
        (
            lambda: FactoredScores(replace(GOOD, logit_bias=torch.tensor(math.nan))),
            "got 10.0 and nan",
        ),
        (
            lambda: FactoredScores(GOOD, groups=torch.zeros(6)),
            r"groups must be an int64 vector, .* got torch.float32 of \(6,\); .*group_ids makes",
        ),
        (lambda: FactoredScores(GOOD, groups=["a"] * 6), r"an int64 vector, .* got \['a'"),
        (
            lambda: FactoredScores(GOOD, groups=torch.arange(5)),
            "groups must have one id per example, got 5 for 6",
        ),
        (lambda: Embeddings(torch.rand(6, 4), torch.rand(6, 5), 1.0), r"got \(6, 4\) and \(6, 5\)"),
        (
            lambda: replace(GOOD, logit_scale=torch.ones(2)),
            r"scale must be a number or a tensor of one element, got shape \(2,\)",
        ),
        (lambda: Embeddings(torch.rand(6), torch.rand(6), 1.0), r"got \(6,\) and \(6,\)"),
        (
            lambda: Embeddings(torch.rand(6, 4), torch.rand(6, 4).half(), 1.0),
            "one floating-point dtype, got torch.float32 and torch.float16",
        ),
        (lambda: Embeddings(*torch.ones(2, 6, 4).long(), logit_scale=1.0), "got torch.int64"),
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
    side = random_embeddings(20, 8, seed=0, logit_scale=scale, dtype=dtype)
    expected = pytest.warns(UserWarning, match=rf"learner's embeddings are {dtype}, which is too")
    with expected if warns else nullcontext():
        FactoredScores(side)


def test_scale_and_bias_may_have_one_element():
    side = replace(GOOD, logit_scale=torch.tensor([10.0]), logit_bias=torch.tensor([-5.0]))
    found, expected = (FactoredScores(s).given(torch.tensor([1])) for s in (side, GOOD))
    torch.testing.assert_close(found.logits, expected.logits)


def test_a_row_that_is_not_finite_is_that_candidates_fault_alone():
    side = random_embeddings(20, 8, seed=0)
    side.image[3] = math.nan
    scores = FactoredScores(side)
    assert torch.isnan(scores.logits).nonzero().tolist() == [[3]]
    picks = JointSelector(4).select(scores, 19, key=0)
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
