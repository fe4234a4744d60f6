"""What must be the same on a GPU: the noise, and with it the candidates that are drawn."""

import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import Embeddings, FactoredScores, JestDataset, JointSelector, UniformSelector
from jest_loader.ops.noise import fold, gumbel
from tests.helpers import random_embeddings

pytestmark = pytest.mark.gpu


def on_gpu(side: Embeddings) -> Embeddings:
    return Embeddings(side.image.cuda(), side.text.cuda(), side.scale, side.bias)


def test_noise_is_that_of_the_cpu():
    found, expected = (
        gumbel(fold(1, 2), 10_000, dtype=torch.float64, device=torch.device(device))
        for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_same_candidates_are_drawn(loss):
    host = random_embeddings(500, 32, seed=0, bias=-5.0)
    drawn = [
        JointSelector(4).select(FactoredScores(side, loss=loss), 100, seed=0, step=0).cpu()
        for side in (host, on_gpu(host))
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_selection_never_waits_for_the_device(loss, fused):
    side = random_embeddings(500, 32, seed=0, dtype=torch.float16)
    scores = FactoredScores(on_gpu(side), loss=loss, fused=fused)
    JointSelector(4).select(scores, 100, seed=0, step=0)  # Compiles.
    torch.cuda.set_sync_debug_mode("error")
    try:
        JointSelector(4).select(scores, 100, seed=0, step=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_not_finite_is_marked_and_then_refused_by_the_dataset():
    side = on_gpu(random_embeddings(500, 32, seed=0, dtype=torch.float16))
    side.image[7] = torch.nan
    index = JointSelector(4).select(FactoredScores(side), 500, seed=0, step=0)
    assert index.max() >= 2**62, "one of 500 has no score, and all are to be drawn"

    class Scorer:
        def score(self, super_batch):
            return FactoredScores(side)

    dataset = JestDataset([torch.arange(500)], Scorer(), super_batch_size=500, sub_batch_size=500)
    with pytest.raises(ValueError, match="as many candidates with finite scores, but 1 had none"):
        next(iter(dataset))


def test_sub_batches_are_pinned_by_a_dataloader_but_not_once_they_are_on_the_gpu():
    def loader(device):
        source = [{"image": torch.zeros(8, 3, device=device), "caption": ["a"] * 8}]
        data = JestDataset(source, None, UniformSelector(), super_batch_size=8, sub_batch_size=4)
        return DataLoader(data, batch_size=None, pin_memory=True)

    batch = next(iter(loader("cpu")))
    assert batch["image"].is_pinned()
    assert batch["caption"] == ["a"] * 4
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        next(iter(loader("cuda")))
