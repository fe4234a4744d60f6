"""A model that is wrapped for training scores as the bare model does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from jest_loader import Embeddings, LiveLearner, OnlineProxy
from jest_loader.scoring.wrappers import device_of

HERE = Path(__file__).parent
CHECKS = ("check_ddp", "check_ddp_proxy", "check_fsdp2", "check_fsdp1")


class Model(nn.Module):
    """Dropout, and a norm with running statistics, which DDP synchronises at each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)

    def embed(self, batch):
        hidden = self.dropout(self.norm(self.layer(batch["image"])))
        return Embeddings(normalize(hidden, dim=1), normalize(hidden, dim=1), 10.0, -5.0)

    def forward(self, batch):
        return self.embed(batch)


def by_forward(model, batch):
    return model(batch)


def batch_of(size: int):
    return {"image": torch.randn(size, 4, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def one_rank():
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_ddp_is_left_out_while_scoring(one_rank):
    model = Model()
    wrapped = DistributedDataParallel(model)
    calls = []
    wrapped.register_forward_pre_hook(lambda *_: calls.append(1))
    expected = LiveLearner(model).embed(batch_of(5)).image
    for learner in (LiveLearner(wrapped), LiveLearner(wrapped, by_forward)):
        assert torch.equal(learner.embed(batch_of(5)).image, expected)
    assert calls == []
    assert wrapped.training
    assert model.dropout.training


def test_a_proxy_in_ddp_trains_through_it(one_rank):
    model = Model()
    wrapped = DistributedDataParallel(model)
    calls = []
    wrapped.register_forward_pre_hook(lambda *_: calls.append(1))
    proxy = OnlineProxy(wrapped, torch.optim.SGD(model.parameters(), lr=0.1))
    proxy.embed(batch_of(4))
    proxy.update(batch_of(4))
    assert calls == [1]


@pytest.mark.parametrize("wrap", [lambda m: m, DistributedDataParallel])
def test_a_compiled_model_is_compiled_once_for_each_mode(wrap, one_rank, fresh_compiler):
    model = Model()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, dynamic=False)
    wrapped = wrap(compiled)
    learner = LiveLearner(wrapped, by_forward, micro_batch_size=4)
    found = []
    for _ in range(4):
        wrapped(batch_of(4)).image[:, 0].sum().backward()
        learner.embed(batch_of(8))
        found.append(len(graphs))
    assert found[0] >= 2, "training and scoring have a graph each"
    assert found[1:] == found[:-1], "and make no other in later steps"


def test_a_compiled_model_scores_by_embed_and_by_a_compiled_function(fresh_compiler):
    model = Model()
    expected = LiveLearner(model).embed(batch_of(5)).image
    compiled = torch.compile(model, backend="eager")
    function = torch.compile(lambda model, batch: model.embed(batch), backend="eager")
    for learner in (LiveLearner(compiled), LiveLearner(model, function)):
        torch.testing.assert_close(learner.embed(batch_of(5)).image, expected)
    assert model.training
    proxy = OnlineProxy(compiled, torch.optim.SGD(model.parameters(), lr=0.1))
    assert list(proxy.state_dict()["model"]) == list(model.state_dict())


def test_what_is_compiled_around_ddp_is_left_out_with_it(one_rank):
    model = Model()
    wrapped = torch.compile(DistributedDataParallel(model), backend="eager")
    expected = LiveLearner(model).embed(batch_of(5)).image
    assert torch.equal(LiveLearner(wrapped).embed(batch_of(5)).image, expected)


@pytest.mark.slow
def test_two_ranks_score_with_ddp_and_fsdp(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, HERE / "two_ranks.py", str(rank), tmp_path / "store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )
        for rank in range(2)
    ]
    try:
        ends = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for out, errors in ends:
        assert out.split("\n")[: len(CHECKS)] == [f"{check} holds" for check in CHECKS], errors


def test_a_model_of_buffers_alone_is_where_they_are():
    """As a frozen, quantized reference may be."""
    model = torch.nn.Module()
    assert device_of(model) == torch.device("cpu")
    model.register_buffer("weight", torch.zeros(2, dtype=torch.int8, device="meta"))
    assert device_of(model) == torch.device("meta")
    model.scale = torch.nn.Parameter(torch.zeros(2))
    assert device_of(model) == torch.device("cpu")
