"""A rank that is killed or frozen is named by the others, also in DDP's backward pass."""

import os
import signal

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.ranks.agreement import Agreement
from jest_loader.ranks.ranks import Ranks, ranks_of
from jest_loader.ranks.roll_call import is_of_a_backend, naming_ranks
from jest_loader.testing import simulate_ranks
from tests.processes import launch


def gather_without(rank, ends):
    ranks = ranks_of(None)
    ranks.all_gather(torch.tensor(rank))
    if rank == 1:
        os.kill(os.getpid(), ends)
    ranks.all_gather(torch.tensor(rank))


def test_a_killed_rank_is_named():
    ended = launch(3, gather_without, signal.SIGKILL)
    for one in (ended[0], ended[2]):
        assert "waited in vain; rank 1 has died or stalled" in one.error


def backward_without(rank):
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    for step in range(3):
        with naming_ranks():
            loss = model(torch.ones(2, 3)).sum()
            if rank == 1 and step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            loss.backward()


def test_a_rank_that_dies_before_ddps_backward_is_named():
    ended = launch(2, backward_without)
    assert "RankError: all ranks must answer" in ended[0].error
    assert "rank 1 has died or stalled" in ended[0].error


def test_an_error_of_ones_own_stays_what_it_is():
    assert not is_of_a_backend(RuntimeError("shape '[3]' is invalid for input of size 2"))
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"), naming_ranks():
        raise RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_time_out_that_is_none_is_refused(timeout_s, tmp_path):
    with pytest.raises(ValueError, match="rank_timeout_s must be positive and at most a year"):
        TrainConfig(DataConfig(tmp_path), tmp_path, rank_timeout_s=timeout_s)


def test_what_differs_between_ranks_is_named_on_each():
    def start(group):
        alike = {"size": 3, "source": {"epoch": 0, "at": {"rows": list(range(10_000))}}}
        one = {"\x1b[2J": "a" * 500} if group.rank == 2 else {}
        with pytest.raises(ValueError, match="must start alike") as caught:
            Agreement(Ranks(group)).check_same({**alike, **one})
        return str(caught.value)

    messages = simulate_ranks(3, start)
    assert len(set(messages)) == 1
    assert messages[0] == (
        "all ranks must start alike, but rank 2 does not start as rank 0 does: \\x1b[2J is "
        f"{'a' * 80}... (500 characters) in place of None; give all the same data, arguments and "
        "state"
    )


def test_values_within_are_named_and_the_others_counted():
    def start(group):
        values = dict.fromkeys("abcde", group.rank)
        with pytest.raises(ValueError, match="must start alike") as caught:
            Agreement(Ranks(group)).check_same({"source": values, "same": [1, 2]})
        return str(caught.value)

    for message in simulate_ranks(2, start):
        assert "as rank 0 does: source.a is 1 in place of 0, source.b is" in message
        assert "source.c is 1 in place of 0, and 2 more; give" in message
