"""The cost model against torch's own count of floating-point operations."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jest_loader import FactoredScores, JointSelector
from jest_loader.clip.towers import ModelConfig, TwoTower
from jest_loader.cost import StepCost, selection_flops
from tests.helpers import random_embeddings


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(image_size=32, channels=1, vision_width=96, vision_depth=3, text_depth=0),
        ModelConfig(
            image_size=96, patch_size=16, vision_width=192, text_depth=3, context_length=20
        ),
    ],
    ids=["default", "demo", "larger"],
)
def test_the_formula_is_within_a_percent_of_the_count(config):
    model = TwoTower(config)
    batch = {
        "image": torch.zeros(
            1, config.channels, config.image_size, config.image_size, dtype=torch.uint8
        ),
        "text": torch.ones(1, config.context_length, dtype=torch.int64),
    }
    plain_attention = sdpa_kernel(SDPBackend.MATH)  # The counter does not know the CPU's fused one.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain_attention:
        model.embed(batch)
    projections = 2 * config.embed_dim * (config.vision_width + config.text_width)
    assert model.forward_flops == pytest.approx(counter.get_total_flops() - projections, rel=0.01)


@pytest.mark.parametrize(("size", "num_chunks"), [(50, 5), (50, 7), (10, 4), (3, 16)])
def test_selection_costs_what_the_formula_says(size, num_chunks):
    embeddings = random_embeddings(200, 16, seed=0)
    with FlopCounterMode(display=False) as counter:
        JointSelector(num_chunks).select(FactoredScores(embeddings), size, seed=0, step=0)
    assert selection_flops(200, size, 16, num_chunks) == counter.get_total_flops()


def test_overhead_at_the_papers_ratio():
    """Cached reference, full resolution, f = 0.8: (3 + 5) / 3, as the paper's accounting gives."""
    forward, batch_size = 10, 7
    cost = StepCost(training=3 * forward * batch_size, scoring=5 * forward * batch_size)
    assert cost.overhead == pytest.approx(8 / 3)
    assert cost.total == 8 * forward * batch_size
