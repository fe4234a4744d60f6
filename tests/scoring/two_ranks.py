"""One of two ranks that score with wrapped models: ``python two_ranks.py RANK STORE``.

Beside a test, since it needs two processes; it ends with an error where something does not hold.
"""

import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from jest_loader import LiveLearner, OnlineProxy
from tests.scoring.test_scorers import Towers, batch_of


class Forward(Towers):
    """Towers whose ``forward`` embeds."""

    def forward(self, batch):
        return self.embed(batch)


def new(kind=Towers):
    """The same weights on both ranks, as DDP and FSDP want them, and no dropout."""
    torch.manual_seed(0)
    model = kind()
    model.dropout.p = 0.0
    model.frozen_norm = torch.nn.Identity()  # DDP waits for the gradients of all parameters.
    return model


def by_forward(model, batch):
    return model(batch)


def expect(learner: LiveLearner, model: Towers, *, size: int = 7) -> None:
    """The learner embeds as the plain model does."""
    found, expected = learner.embed(batch_of(size)), LiveLearner(model).embed(batch_of(size))
    torch.testing.assert_close(found.image, expected.image)
    torch.testing.assert_close(found.text, expected.text)


def check_ddp(rank: int) -> None:
    """Ranks score different numbers of micro-batches, so a collective in one would hang."""
    wrapped = DistributedDataParallel(new())
    expect(LiveLearner(wrapped, micro_batch_size=2), new(), size=3 + 4 * rank)


def check_ddp_proxy(rank: int) -> None:
    """Ranks train on sub-batches of their own and stay the same model."""
    model = new(Forward)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    proxy = OnlineProxy(DistributedDataParallel(model), optimizer)
    for step in range(3):
        proxy.update(batch_of(6, seed=10 * step + rank))
    everyone = [torch.empty_like(model.image.weight) for _ in range(2)]
    dist.all_gather(everyone, model.image.weight.detach())
    assert torch.equal(*everyone)
    assert not torch.equal(model.image.weight, new().image.weight)
    assert "image.weight" in proxy.state_dict()["model"]


def check_fsdp2(rank: int) -> None:
    """Weights are gathered for ``embed``, freed, and those of the last optimizer step."""
    mesh = init_device_mesh("cpu", (2,))
    model, plain = new(), new()
    fully_shard(model.image, mesh=mesh)
    fully_shard(model, mesh=mesh)
    learner = LiveLearner(model, micro_batch_size=3)
    expect(learner, plain)
    registered = vars(model)["embed"]
    LiveLearner(model)
    assert vars(model)["embed"] is registered, "a second one must not gather twice"
    assert model.text.weight.to_local().shape[0] == plain.text.weight.shape[0] // 2
    for one in (model, plain):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        one.embed(batch_of(6)).image[:, 0].sum().backward()
        optimizer.step()
    expect(learner, plain)
    with torch.no_grad():  # No backward frees what scoring gathered.
        for one in (model, plain):
            one.text.weight.mul_(-2.0)
    expect(learner, plain)


def check_fsdp1(rank: int) -> None:
    """Weights are gathered in ``forward`` only: refused, unless a function goes through it."""
    wrapped = FullyShardedDataParallel(new(Forward), device_id=torch.device("cpu"))
    expect(LiveLearner(wrapped, by_forward), new())
    with pytest.raises(ValueError, match="gathers weights in forward only, not in embed; use"):
        LiveLearner(wrapped)
    with pytest.raises(ValueError, match="max_memory_bytes does not go with FSDP"):
        LiveLearner(wrapped, by_forward, max_memory_bytes=1)


def main() -> None:
    """Run every check, both ranks at once."""
    rank, path = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    store = dist.FileStore(path, 2)  # type: ignore[attr-defined]
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    for check in (check_ddp, check_ddp_proxy, check_fsdp2, check_fsdp1):
        check(rank)
        sys.stdout.write(f"{check.__name__} holds\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
