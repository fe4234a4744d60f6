"""A model's scale and bias at another batch size: the formula, and the least loss itself."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize, softplus

from jest_loader import Embeddings, calibrate
from jest_loader.scoring.calibration import adapted_bias
from tests.helpers import random_embeddings

PAIRS = random_embeddings(256, 16, seed=0, agreement=0.8)


def loss_at(pairs: Embeddings, size: int, scale: float, bias: float) -> float:
    """The sigmoid loss of batches drawn from the pairs, on average, by its definition."""
    logits = scale * pairs.image @ pairs.text.T + bias
    own = softplus(-logits.diagonal()).mean()
    others = softplus(logits)[~torch.eye(len(logits), dtype=torch.bool)].mean()
    return float(own + (size - 1) * others)


def brute_force(pairs: Embeddings, size: int) -> tuple[float, float]:
    """The best of a grid, then of finer and finer grids around the best."""
    scale, bias, width = 15.0, -8.0, 8.0
    while width > 0.005:
        near = [width * step / 2 for step in (-2, -1, 0, 1, 2)]
        grid = [(scale + i, bias + j) for i in near for j in near]
        scale, bias = min(grid, key=lambda at: loss_at(pairs, size, *at))
        width *= 0.7
    return scale, bias


def with_wrong_captions(pairs: Embeddings) -> Embeddings:
    """The pairs, a fifth of them with captions of other examples."""
    text = pairs.text.clone()
    text[::5] = random_embeddings(len(text), 16, seed=7).text[::5]
    return replace(pairs, text=text)


def test_an_adapted_bias_is_less_by_the_logarithm_of_the_ratio():
    assert adapted_bias(-7.0, 128, 1024) == pytest.approx(-7.0 - 3 * math.log(2))
    assert adapted_bias(torch.tensor([-7.0]), 128, 32).item() == pytest.approx(-7 + 2 * math.log(2))
    assert adapted_bias(-7.0, 128, 128) == -7.0


@pytest.mark.parametrize("size", [2, 128, 8192])
def test_calibrating_finds_the_least_loss(size):
    found = calibrate(PAIRS, size)
    assert found[:2] == pytest.approx(brute_force(PAIRS, size), abs=0.02)
    assert found.batch_size == size


def test_the_bias_of_least_loss_falls_as_the_logarithm_of_the_size():
    biases = [calibrate(PAIRS, size).logit_bias for size in (128, 1024)]
    scale, bias, _ = calibrate(PAIRS, 128)
    adapted = loss_at(PAIRS, 1024, scale, adapted_bias(bias, 128, 1024))
    least = loss_at(PAIRS, 1024, *calibrate(PAIRS, 1024)[:2])
    assert biases[1] < biases[0] - 1
    assert least <= adapted < least + 0.5 * (loss_at(PAIRS, 1024, scale, bias) - least)


@pytest.mark.parametrize("size", [32, 1024])
def test_a_fifth_of_wrong_captions_hardly_changes_what_is_found(size):
    pairs = random_embeddings(1000, 16, seed=1, agreement=0.8)
    noisy, few = with_wrong_captions(pairs), replace(PAIRS, text=with_wrong_captions(PAIRS).text)
    right, found = calibrate(pairs, size)[:2], calibrate(noisy, size)[:2]
    assert found == pytest.approx(right, rel=0.1)
    assert brute_force(few, size) != pytest.approx(calibrate(PAIRS, size)[:2], rel=0.2)
    least = loss_at(pairs, size, *right)
    assert loss_at(pairs, size, *found) - least < 0.01 * least


def test_calibrating_leaves_out_rows_that_are_not_finite():
    image, text = PAIRS.image.clone(), PAIRS.text.clone()
    image[::2], text[1::4] = torch.nan, torch.inf
    kept = replace(PAIRS, image=PAIRS.image[3::4], text=PAIRS.text[3::4])
    assert calibrate(replace(PAIRS, image=image, text=text), 64) == calibrate(kept, 64)


def test_fewer_pairs_are_taken_from_all_over_the_sample():
    pairs = random_embeddings(2048, 16, seed=2, agreement=0.8)
    found = calibrate(pairs, 64, max_pairs=512)
    assert found == pytest.approx(calibrate(pairs, 64, max_pairs=2048), rel=0.05)
    text = pairs.text.clone()
    text[1024:] = normalize(text[1024:] + pairs.image[:1024], dim=1)  # Other texts are close here.
    apart = calibrate(replace(pairs, text=text), 64, max_pairs=512)
    assert apart != pytest.approx(found, rel=0.05)


def test_pairs_without_a_least_loss_are_refused():
    for text in (PAIRS.image, -PAIRS.image):
        pairs = replace(PAIRS, text=text)
        with pytest.raises(ValueError, match=r"tells from others with some error.* adapted_bias"):
            calibrate(pairs, 128)
    few = replace(PAIRS, image=PAIRS.image[:9], text=PAIRS.text[:9])
    with pytest.raises(ValueError, match="at least 16 pairs of finite embeddings, got 9"):
        calibrate(few, 128)
    with pytest.raises(ValueError, match="size must be a whole number of at least 2, got 1"):
        calibrate(PAIRS, 1)
