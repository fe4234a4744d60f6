"""Autocast around the training loop changes neither what is chosen nor what is said of it."""

import pytest
import torch
from torch.nn.functional import normalize

from jest_loader import Embeddings, FrozenReference, JestDataset, Learnability, LiveLearner, Options


class Towers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = torch.nn.Linear(32, 16), torch.nn.Linear(32, 16)

    def embed(self, batch):
        image, text = self.image(batch["image"]), self.text(batch["text"])
        return Embeddings(normalize(image, dim=1), normalize(text, dim=1), 20.0, -5.0)


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "ahead"])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_autocast_around_the_loop_changes_no_choice(loss, overlap):
    torch.manual_seed(0)
    model, reference = Towers(), Towers()
    batches = [
        {"image": torch.randn(100, 32), "text": torch.randn(100, 32), "row": torch.arange(100)}
        for _ in range(4)
    ]

    def choose(*, enabled):
        scorer = Learnability(LiveLearner(model), FrozenReference(reference), loss=loss)
        data = JestDataset(
            batches, scorer, super_batch_size=100, sub_batch_size=40,
            options=Options(overlap=overlap), materialize=seeing_no_autocast,
        )  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for batch in data:
                assert torch.is_autocast_enabled("cpu") == enabled
                stats = data.stats
                yield batch["row"].tolist(), stats.score, stats.uniform_score

    def seeing_no_autocast(batch):
        assert not torch.is_autocast_enabled("cpu")
        return batch

    assert list(choose(enabled=True)) == list(choose(enabled=False))
