"""A small two-tower model, pairs that carry their number, and scripts on two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from jest_loader import Embeddings, FrozenReference, JestDataset, Learnability, LiveLearner, Options


class TwoTower(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image, self.text = torch.nn.Linear(24, 8), torch.nn.Linear(12, 8)

    def embed(self, batch) -> Embeddings:
        image, text = self.image(batch["image"]), self.text(batch["text"])
        return Embeddings(normalize(image, dim=1), normalize(text, dim=1), 10.0, -5.0)

    def forward(self, batch) -> Tensor:
        pair = self.embed(batch)
        logits = pair.logit_scale * pair.image @ pair.text.T + pair.logit_bias
        labels = 2 * torch.eye(len(logits)) - 1
        return softplus(-labels * logits).sum() / len(logits)


def pairs(size: int = 176) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 24, generator=generator)
    texts = torch.randn(size, 12, generator=generator)
    return [{"id": torch.tensor(n), "image": images[n], "text": texts[n]} for n in range(size)]


def loader(size: int = 176, batch_size: int = 8) -> StatefulDataLoader:
    data = pairs(size)
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(3))
    return StatefulDataLoader(data, batch_size=batch_size, sampler=sampler)


def dataset(model: torch.nn.Module, source=None, *, size=8, **options) -> JestDataset:
    """Sub-batches out of five times as many: four an epoch of 8, and 16 rows that are left over."""
    scorer = Learnability(
        LiveLearner(model, lambda model, batch: model.embed(batch)), FrozenReference(TwoTower(7))
    )
    return JestDataset(
        loader() if source is None else source,
        scorer,
        super_batch_size=5 * size,
        sub_batch_size=size,
        options=Options(**options),
    )


def run_ranks(script: str, folder: Path, *arguments: object) -> list[Any]:
    """Run a script on two ranks; what each wrote into ``rank0.json`` and ``rank1.json``."""
    file = folder / "script.py"
    file.write_text(script)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        str(file), str(folder), *map(str, arguments),
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def assert_no_row_is_shared(first: list[list[int]], second: list[list[int]]) -> None:
    """Of the sub-batches of two ranks, step by step."""
    for one, two in zip(first, second, strict=True):
        assert not set(one) & set(two)
