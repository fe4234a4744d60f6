"""What must be the same on a GPU: the noise, and with it the candidates that are drawn."""

import pytest
import torch

from jest_loader import Embeddings, FactoredScores, JointSelector
from jest_loader.ops.noise import fold, gumbel
from tests.helpers import random_embeddings

pytestmark = pytest.mark.gpu


def test_noise_is_that_of_the_cpu():
    found, expected = (
        gumbel(fold(1, 2), 10_000, dtype=torch.float64, device=torch.device(device))
        for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_same_candidates_are_drawn(loss):
    host = random_embeddings(500, 32, seed=0, bias=-5.0)
    device = Embeddings(host.image.cuda(), host.text.cuda(), host.scale, host.bias)
    drawn = [
        JointSelector(4).select(FactoredScores(side, loss=loss), 100, seed=0, step=0).cpu()
        for side in (host, device)
    ]
    assert torch.equal(*drawn)
