"""The noise: standard Gumbel, independent, and the same for a candidate everywhere."""

import math
from collections import Counter

import pytest
import torch

from jest_loader.ops.noise import fold, gumbel

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_gumbel(dtype):
    noise = gumbel(fold(0, 1, 2), 200_000, dtype=dtype, device=CPU).double().sort().values
    cumulative = torch.exp(-torch.exp(-noise))
    expected = (torch.arange(len(noise)) + 0.5) / len(noise)
    # The Kolmogorov-Smirnov statistic exceeds this once in 10^6 draws.
    assert (cumulative - expected).abs().max() < 2.7 / math.sqrt(len(noise))
    assert torch.isfinite(noise).all()


def test_draws_of_other_steps_and_chunks_are_unrelated():
    keys = [fold(seed, step, chunk) for seed in range(3) for step in range(4) for chunk in range(5)]
    noise = torch.stack([gumbel(key, 5000, dtype=torch.float64, device=CPU) for key in keys])
    correlation = torch.corrcoef(noise) - torch.eye(len(keys))
    assert correlation.abs().max() < 5.5 / math.sqrt(5000)
    neighbours = torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))
    assert abs(neighbours[0, 1]) < 5 / math.sqrt(noise.numel())


def test_a_candidate_has_the_same_noise_however_many_there_are():
    key = fold(7)
    few = gumbel(key, 10, dtype=torch.float64, device=CPU)
    many = gumbel(key, 1000, dtype=torch.float64, device=CPU)
    assert torch.equal(few, many[:10])
    assert torch.allclose(few, gumbel(key, 10, dtype=torch.float32, device=CPU).double(), atol=1e-5)


def test_the_largest_draws_go_as_far_as_a_gumbel_does():
    """A coarse uniform would cut the tail that decides who is drawn first."""
    largest = [
        gumbel(fold(i), 1 << 20, dtype=torch.float32, device=CPU).max().item() for i in range(64)
    ]
    assert max(largest) > math.log(2**20) + 2.5
    assert len(set(largest)) == 64


def test_every_part_of_a_key_and_its_place_matter():
    keys = Counter(
        [fold(a, b, c) for a in range(12) for b in range(12) for c in range(12)]
        + [fold(a, b) for a in range(12) for b in range(12)]
    )
    assert max(keys.values()) == 1
