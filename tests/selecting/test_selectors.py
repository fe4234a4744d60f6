"""Selectors against the published algorithm and against closed forms."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jest_loader import (
    DenseScores,
    Embeddings,
    ExampleScores,
    FactoredScores,
    GibbsSelector,
    IndependentSelector,
    JointSelector,
    Selector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ops.noise import fold, gumbel
from jest_loader.selecting.drawing import check_finite
from jest_loader.selecting.selectors import chunk_sizes
from tests.helpers import random_embeddings
from tests.published import choice, jointly_sample, sigmoid_pairwise, softmax_loss, sum_of_pairs


def learnability_matrix(size: int, *, seed: int) -> np.ndarray:
    learner = random_embeddings(size, 6, seed=seed, logit_scale=5.0, logit_bias=-1.0, agreement=0.5)
    reference = random_embeddings(
        size, 6, seed=seed + 1, logit_scale=8.0, logit_bias=-2.0, agreement=2.0
    )
    losses = [
        sigmoid_pairwise(side.image.numpy(), side.text.numpy(), side.logit_scale, side.logit_bias)
        for side in (learner, reference)
    ]
    return losses[0] - losses[1]


def total_score(pairwise: np.ndarray, chosen: np.ndarray) -> float:
    return float(pairwise[np.ix_(chosen, chosen)].sum())


@pytest.mark.slow
def test_joint_selector_draws_as_the_published_algorithm():
    size, sub_batch, chunks, num_draws = 10, 5, 3, 4000
    pairwise = learnability_matrix(size, seed=3)
    random = np.random.default_rng(0)
    published = [
        jointly_sample(sum_of_pairs(pairwise), sub_batch, chunks, choice(random))
        for _ in range(num_draws)
    ]
    scores, selector = DenseScores(torch.from_numpy(pairwise)), JointSelector(chunks)
    ours = [selector.select(scores, sub_batch, key=step).numpy() for step in range(num_draws)]

    def inclusion(draws: list[np.ndarray]) -> np.ndarray:
        return np.mean([np.isin(np.arange(size), draw) for draw in draws], axis=0)

    expected, found = inclusion(published), inclusion(ours)
    assert expected.max() - expected.min() > 0.2, "the case must tell candidates apart"
    spread = np.sqrt(2 * expected * (1 - expected) / num_draws)
    assert np.all(np.abs(found - expected) < 5 * spread + 1e-9)

    totals = [
        np.array([total_score(pairwise, draw) for draw in draws]) for draws in (published, ours)
    ]
    error = math.hypot(*(values.std() / math.sqrt(num_draws) for values in totals))
    assert abs(totals[0].mean() - totals[1].mean()) < 5 * error


@pytest.mark.parametrize("num_draws", [4000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_joint_selector_has_the_exact_probabilities_of_ordered_draws(num_draws):
    pairwise = learnability_matrix(4, seed=11)
    exact = {}
    for first, second in permutations(range(4), 2):
        own = np.diag(pairwise)
        start = np.exp(own)
        then = np.exp(own + pairwise[first] + pairwise[:, first])
        then[first] = 0.0
        exact[first, second] = start[first] / start.sum() * then[second] / then.sum()
    scores = DenseScores(torch.from_numpy(pairwise))
    found = dict.fromkeys(exact, 0)
    for step in range(num_draws):
        found[tuple(JointSelector(2).select(scores, 2, key=step).tolist())] += 1
    for pair, probability in exact.items():
        spread = math.sqrt(probability * (1 - probability) / num_draws)
        assert abs(found[pair] / num_draws - probability) < 5 * spread


def test_joint_differs_from_independent_where_negatives_matter():
    learner = random_embeddings(640, 16, seed=0, logit_scale=15.0, logit_bias=-3.0)
    reference = random_embeddings(640, 16, seed=1, logit_scale=15.0, logit_bias=-3.0, agreement=3.0)
    scores = FactoredScores(learner, reference)
    joint = JointSelector().select(scores, 128, key=0)
    independent = IndependentSelector().select(scores, 128, key=0)
    shared = len(set(joint.tolist()) & set(independent.tolist()))
    assert shared < 100
    pairwise = scores.dense()._pairwise.numpy()  # type: ignore[attr-defined]
    assert total_score(pairwise, joint.numpy()) > 1.2 * total_score(pairwise, independent.numpy())


def test_at_siglips_initial_scale_conditioning_adds_next_to_nothing():
    scores = FactoredScores(random_embeddings(200, 64, seed=0, logit_scale=10.0, logit_bias=-10.0))
    added = scores.given(torch.arange(10)).logits[10:] - scores.logits[10:]
    assert added.abs().max() < 0.2 * scores.logits.std()


def test_the_first_chunk_is_drawn_as_independent_selection_draws():
    scores = FactoredScores(random_embeddings(200, 64, seed=0, logit_scale=10.0, logit_bias=-10.0))
    one_chunk = JointSelector(num_chunks=1).select(scores, 40, key=0)
    independent = IndependentSelector().select(scores, 40, key=0)
    assert torch.equal(one_chunk, independent)
    first_chunk = JointSelector(num_chunks=4).select(scores, 40, key=0)[:10]
    assert torch.equal(first_chunk, independent[:10])


@pytest.mark.slow
def test_example_scores_draw_each_chunk_independently():
    values = torch.linspace(-3, 3, 50, dtype=torch.float64)
    counts = torch.zeros(2, 50)
    selectors: list[Selector] = [JointSelector(4), IndependentSelector()]
    for step in range(3000):
        for row, selector in enumerate(selectors):
            counts[row, selector.select(ExampleScores(values), 8, key=step)] += 1
    share = counts / 3000
    spread = (2 * share.mean(0) * (1 - share.mean(0)) / 3000).sqrt()
    assert torch.all((share[0] - share[1]).abs() < 5 * spread + 1e-3)


@settings(max_examples=100)
@given(
    num_candidates=st.integers(2, 16),
    width=st.integers(1, 8),
    scale=st.floats(5.0, 100.0),
    bias=st.floats(-20.0, 2.0),
    fraction=st.floats(0.05, 1.0),
    num_chunks=st.integers(1, 12),
    gain=st.floats(0.1, 4.0),
    loss=st.sampled_from(["sigmoid", "softmax"]),
)
def test_joint_selection_is_the_pseudo_code_under_the_same_noise(
    num_candidates, width, scale, bias, fraction, num_chunks, gain, loss
):
    """Algorithm 1 with its draw made by Gumbel-top-k; that this is its draw, others test."""
    size = max(1, round(fraction * num_candidates))
    sides = [
        random_embeddings(
            num_candidates, width, seed=s, logit_scale=scale, logit_bias=bias, agreement=s + 0.5
        )
        for s in (0, 1)
    ]
    arrays = [(side.image.numpy(), side.text.numpy(), scale) for side in sides]
    learner, reference = (sigmoid_pairwise(*side, bias) for side in arrays)

    def softmax_score(chosen):
        losses = [
            [softmax_loss(*side, chosen.tolist(), i) for i in range(num_candidates)]
            for side in arrays
        ]
        return np.subtract(*losses)

    chunk_keys = (fold(3, chunk) for chunk in range(num_chunks))

    def gumbel_top_k(logits, number):
        key = next(chunk_keys)
        noise = gumbel(key, num_candidates, dtype=torch.float64, device=torch.device("cpu"))
        return np.argsort(-(gain * logits + noise.numpy()), kind="stable")[:number]

    score = sum_of_pairs(learner - reference) if loss == "sigmoid" else softmax_score
    expected = jointly_sample(score, size, num_chunks, gumbel_top_k)
    selector = JointSelector(num_chunks, gain)
    found = selector.select(FactoredScores(*sides, loss), size, key=3)
    assert found.tolist() == expected.tolist()


@settings(max_examples=60)
@given(
    num_candidates=st.integers(1, 80),
    fraction=st.floats(0.01, 1.0),
    num_chunks=st.integers(1, 20),
    loss=st.sampled_from(["sigmoid", "softmax"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_size_gives_distinct_rows_and_the_same_ones_again(
    num_candidates, fraction, num_chunks, loss, seed
):
    size = max(1, round(fraction * num_candidates))
    learner = random_embeddings(num_candidates, 5, seed=0)
    scores = FactoredScores(learner, random_embeddings(num_candidates, 3, seed=1), loss)
    selector = JointSelector(num_chunks)
    index = selector.select(scores, size, key=seed)
    assert index.dtype == torch.int64
    assert index.shape == (size,)
    assert len(set(index.tolist())) == size
    assert torch.equal(index, selector.select(scores, size, key=seed))


def test_seed_and_step_both_change_the_draw():
    scores = ExampleScores(torch.zeros(1000))
    draws = [
        UniformSelector().select(scores, 100, key=fold(seed, step)).tolist()
        for seed, step in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(draw) for draw in draws}) == 4


def test_uniform_ignores_scores_and_top_k_follows_them():
    scores = ExampleScores(torch.tensor([0.0, 50.0, 20.0, 30.0]))
    assert TopKSelector().select(scores, 3, key=0).tolist() == [1, 3, 2]
    counts = torch.zeros(4)
    for step in range(2000):
        counts[UniformSelector().select(scores, 1, key=step)] += 1
    assert counts.min() > 400
    assert counts.max() < 600


def test_a_small_gain_draws_more_evenly():
    scores = ExampleScores(torch.tensor([0.0, 4.0], dtype=torch.float64))
    share = torch.zeros(2)
    selectors: list[Selector] = [JointSelector(gain=0.25), IndependentSelector(gain=0.25)]
    for row, selector in enumerate(selectors):
        picks = [int(selector.select(scores, 1, key=fold(row, step))) for step in range(4000)]
        share[row] = sum(picks) / 4000
    expected = math.e / (1 + math.e)
    assert torch.all((share - expected).abs() < 5 * math.sqrt(expected * (1 - expected) / 4000))


@pytest.mark.parametrize("num_draws", [1000, pytest.param(4000, marks=pytest.mark.slow)])
def test_gibbs_draws_sub_batches_by_the_exponential_of_their_score(num_draws):
    pairwise = learnability_matrix(5, seed=11) / 2
    weights = {
        pair: math.exp(total_score(pairwise, np.array(pair))) for pair in combinations(range(5), 2)
    }
    found = dict.fromkeys(weights, 0)
    scores, selector = DenseScores(torch.from_numpy(pairwise)), GibbsSelector(num_sweeps=6)
    for step in range(num_draws):
        found[tuple(sorted(selector.select(scores, 2, key=step).tolist()))] += 1
    for pair, weight in weights.items():
        probability = weight / sum(weights.values())
        spread = math.sqrt(probability * (1 - probability) / num_draws)
        assert abs(found[pair] / num_draws - probability) < 5 * spread


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_gibbs_finds_what_joint_selection_looks_for(loss):
    learner = random_embeddings(120, 16, seed=0, logit_scale=15.0, logit_bias=-3.0)
    reference = random_embeddings(120, 16, seed=1, logit_scale=15.0, logit_bias=-3.0, agreement=3.0)
    scores = FactoredScores(learner, reference, loss)

    def learnability(index):
        rows = [
            Embeddings(side.image[index], side.text[index], side.logit_scale, side.logit_bias)
            for side in (learner, reference)
        ]
        return float(contrastive_loss(rows[0], loss) - contrastive_loss(rows[1], loss))

    found = {
        type(selector).__name__: learnability(selector.select(scores, 24, key=fold(0)))
        for selector in (GibbsSelector(), JointSelector(), UniformSelector())
    }
    assert found["GibbsSelector"] > found["JointSelector"] > found["UniformSelector"]


def test_gibbs_selects_one_or_all():
    scores = FactoredScores(random_embeddings(9, 4, seed=0))
    assert GibbsSelector().select(scores, 1, key=0).shape == (1,)
    assert sorted(GibbsSelector(2).select(scores, 9, key=0).tolist()) == list(range(9))


@pytest.mark.parametrize(
    ("size", "num_chunks", "expected"),
    [(32_768, 16, [2048] * 16), (10, 4, [3, 3, 2, 2]), (3, 16, [1, 1, 1]), (997, 1, [997])],
)
def test_chunk_sizes(size, num_chunks, expected):
    assert chunk_sizes(size, num_chunks) == expected


@pytest.mark.parametrize(
    "selector",
    [JointSelector(), GibbsSelector(), IndependentSelector(), TopKSelector(), UniformSelector()],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_finite_score_are_not_drawn(selector, bad):
    values = torch.zeros(10)
    values[[3, 7]] = bad
    scores = ExampleScores(values)
    for step in range(20):
        assert not {3, 7} & set(selector.select(scores, 8, key=step).tolist())
    with pytest.raises(
        ValueError,
        match="sub-batch of 9 needs as many candidates with finite scores, but 1 had none",
    ):
        selector.select(scores, 9, key=0)


def test_rows_that_an_accelerator_marked_are_refused():
    check_finite(torch.tensor([0, 9]))
    with pytest.raises(ValueError, match=r"but 2 had none \(the first at row 3 "):
        check_finite(torch.tensor([0, 2**62 + 7, 2**62 + 3, 9]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_conditioning_makes_infinite_are_not_drawn(bad):
    pairwise = torch.zeros(6, 6)
    pairwise[2, :2] = bad  # Row 2 does not go with rows 0 and 1.
    with_row_2 = set()
    for step in range(40):
        picks = set(JointSelector(4).select(DenseScores(pairwise), 4, key=step).tolist())
        assert 2 not in picks or not {0, 1} & picks
        with_row_2.add(2 in picks)
    assert with_row_2 == {True, False}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_drawn_with_full_noise(dtype):
    scores = DenseScores(torch.zeros(50, 50, dtype=dtype))
    for selector in (JointSelector(2), IndependentSelector(), UniformSelector()):
        draws = {tuple(selector.select(scores, 10, key=s).tolist()) for s in range(20)}
        assert len(draws) == 20


@pytest.mark.parametrize(
    "selector",
    [JointSelector(), GibbsSelector(), IndependentSelector(), TopKSelector(), UniformSelector()],
)
@pytest.mark.parametrize("size", [0, 11])
def test_sizes_out_of_range_are_refused(selector, size):
    with pytest.raises(ValueError, match=f"between 1 and 10 examples.*got {size}"):
        selector.select(ExampleScores(torch.zeros(10)), size, key=0)


@pytest.mark.parametrize("selector", [IndependentSelector(), TopKSelector()])
def test_softmax_scores_need_joint_selection(selector):
    scores = FactoredScores(random_embeddings(10, 4, seed=0), loss="softmax")
    with pytest.raises(ValueError, match=r"cannot use softmax scores.*use JointSelector"):
        selector.select(scores, 4, key=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: JointSelector(num_chunks=0),
            "num_chunks must be a whole number of at least 1, got 0",
        ),
        (
            lambda: GibbsSelector(num_sweeps=0),
            "num_sweeps must be a whole number of at least 1, got 0",
        ),
        (lambda: GibbsSelector(gain=-2), "gain must be positive and finite, got -2"),
        (lambda: JointSelector(gain=0), "gain must be positive and finite, got 0"),
        (lambda: IndependentSelector(gain=-1), "gain must be positive and finite, got -1"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
