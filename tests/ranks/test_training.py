"""Processes that train on what they choose together train as one process does."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize, softplus

from jest_loader import (
    Embeddings,
    HardLearner,
    JestDataset,
    JointSelector,
    LiveLearner,
)
from jest_loader.batch import split
from jest_loader.ops.losses import contrastive_loss
from tests.helpers import jest_dataset
from tests.processes import launch
from tests.ranks.builders import ByNumber, sides


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (torch.nn.Linear(12, 8, dtype=torch.float64) for _ in range(2))

    def forward(self, batch):
        image, text = (
            normalize(getattr(self, name)(batch[name]), dim=1) for name in ("image", "text")
        )
        return Embeddings(image, text, 10.0, -4.0)


PAIRS = sides(480, seed=3)[0]


def self_scored(model: torch.nn.Module, rank: int, num_ranks: int) -> JestDataset:
    """Of 48 pairs over all ranks the 12 that are hardest for the model."""
    source = [
        {"image": PAIRS.image[rows], "text": PAIRS.text[rows]}
        for rows in (slice(start + rank, start + 48, num_ranks) for start in range(0, 480, 48))
    ]
    return jest_dataset(
        source,
        HardLearner(LiveLearner(model, embed=lambda model, batch: model(batch))),
        JointSelector(4, quota="global"),
        super_batch_size=48 // num_ranks,
        sub_batch_size=12 // num_ranks,
    )


def train(rank: int, kind: str) -> list[float]:
    """The losses of a learner that trains on what is chosen by its own scores."""
    num_ranks = dist.get_world_size() if kind != "alone" else 1
    model = Towers()
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    elif kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (num_ranks,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for batch in self_scored(model, rank, num_ranks):
        found = model(batch)
        image, text = (gathered(side, num_ranks) for side in (found.image, found.text))
        loss = contrastive_loss(replace(found, image=image, text=text), "sigmoid")
        optimizer.zero_grad()
        (num_ranks * loss).backward()  # Their mean is taken; each has the gradient of its own rows.
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_in_parts(rank: int, num_parts: int) -> list[float]:
    """The losses of steps whose sub-batch is chosen at once and trained on in parts."""
    num_ranks = dist.get_world_size() if dist.is_initialized() else 1
    model = towers = Towers()
    if num_ranks > 1:
        model = torch.nn.parallel.DistributedDataParallel(towers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for batch in self_scored(model, rank, num_ranks):
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for number, part in enumerate(split(batch, 12 // num_ranks // num_parts)):
            last = number == num_parts - 1
            with nullcontext() if last or model is towers else model.no_sync():
                found = model(part)
                own = found.logit_scale * (found.image * found.text).sum(dim=1) + found.logit_bias
                loss = softplus(-own).mean() / num_parts
                loss.backward()
            total += loss.detach()
        if num_ranks > 1:
            dist.all_reduce(total)
        optimizer.step()
        losses.append(total.item() / num_ranks)
    return losses


def gathered(rows: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """The rows of all ranks, of which this rank's have gradients."""
    if num_ranks == 1:
        return rows
    everyones = [torch.empty_like(rows) for _ in range(num_ranks)]
    dist.all_gather(everyones, rows.detach())
    everyones[dist.get_rank()] = rows
    return torch.cat(everyones)


def test_two_ranks_that_accumulate_gradients_train_as_one_process_does():
    expected = train_in_parts(0, 1)
    ended = launch(2, train_in_parts, 3)
    assert [one.error for one in ended] == [None, None]
    assert ended[0].result == pytest.approx(expected, rel=1e-9)
    assert abs(expected[-1] - expected[0]) > 0.01 * expected[0], "it must learn something"


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_process_does(kind):
    expected = train(0, "alone")
    ended = launch(2, train, kind)
    assert [one.error for one in ended] == [None, None]
    assert ended[0].result == pytest.approx(ended[1].result)
    assert ended[0].result == pytest.approx(expected, rel=1e-9)
    assert abs(expected[-1] - expected[0]) > 0.01 * expected[0], "it must learn something"


def read_through_a_sampler(rank: int) -> list[list[int]]:
    from torch.utils.data.distributed import DistributedSampler
    from torchdata.stateful_dataloader import StatefulDataLoader

    numbers = [{"number": number} for number in range(96)]
    num_ranks = dist.get_world_size()
    sampler = DistributedSampler(numbers, seed=7)
    loader = StatefulDataLoader(numbers, batch_size=24 // num_ranks, sampler=sampler)

    def make():
        return jest_dataset(
            loader,
            ByNumber(),
            JointSelector(4, quota="global"),
            super_batch_size=48 // num_ranks,
            sub_batch_size=12 // num_ranks,
        )

    batches = iter(make())
    first = next(batches)["number"].tolist()
    second = next(batches)["number"].tolist()
    return [first, second]


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_distributed_sampler_deals_the_same_super_batches(num_ranks):
    alone, together = (launch(size, read_through_a_sampler) for size in (1, num_ranks))
    assert [one.error for one in (*alone, *together)] == [None] * (1 + num_ranks)
    for step in range(2):
        sets = [{row for one in ended for row in one.result[step]} for ended in (alone, together)]
        assert sets[0] == sets[1]
        assert len(sets[0]) == 12
