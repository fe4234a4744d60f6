"""What several tests build: embeddings with structure, and small data sets."""

from dataclasses import fields
from typing import Any

import torch
from torch.nn.functional import normalize

from jest_loader import Embeddings, JestDataset, Options


def random_embeddings(
    size: int,
    width: int,
    *,
    seed: int,
    logit_scale: float = 10.0,
    logit_bias: float | None = -5.0,
    agreement: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Embeddings:
    """Pairs whose text is the image plus noise, so that own pairs score above others."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, width, dtype=torch.float64, generator=generator)
    noise = torch.randn(size, width, dtype=torch.float64, generator=generator)
    text = agreement * image + noise
    return Embeddings(
        normalize(image, dim=1).to(dtype), normalize(text, dim=1).to(dtype), logit_scale, logit_bias
    )


def numbered_batches(num_batches: int, batch_size: int) -> list[dict[str, Any]]:
    """Batches whose rows carry their own number, as a tensor and as text."""
    return [
        {
            "number": torch.arange(start, start + batch_size),
            "caption": [f"row {row}" for row in range(start, start + batch_size)],
        }
        for start in range(0, num_batches * batch_size, batch_size)
    ]


class Counting:
    """A stateful source of consecutive numbers, with epochs."""

    def __init__(self, num_batches: int, batch_size: int) -> None:
        self.num_batches, self.batch_size = num_batches, batch_size
        self.epoch = self.position = 0
        self.states_taken = 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __iter__(self):
        start, self.position = self.position, 0
        for batch in range(start, self.num_batches):
            self.position = batch + 1
            first = (self.epoch * self.num_batches + batch) * self.batch_size
            yield {"number": torch.arange(first, first + self.batch_size)}
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self):
        self.states_taken += 1
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict):
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]


def jest_dataset(source, scorer, selector=None, **keywords) -> JestDataset:
    """A ``JestDataset`` whose options are given beside its arguments."""
    names = {field.name for field in fields(Options)}
    options = {name: keywords.pop(name) for name in names & keywords.keys()}
    return JestDataset(source, scorer, selector, options=Options(**options), **keywords)
