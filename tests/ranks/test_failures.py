"""A rank that fails, stalls or differs ends the others with an error that names it."""

import io
import logging
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from jest_loader import (
    JointSelector,
    UniformSelector,
)
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.ranks import roll_call
from jest_loader.ranks.roll_call import RankError
from jest_loader.testing import simulate_ranks
from tests.helpers import jest_dataset
from tests.processes import Ended, launch
from tests.ranks.builders import ByNumber, Consecutive, dataset, read


def test_ranks_that_do_not_start_alike_are_refused(folder):
    def run(group):
        return next(iter(dataset(folder, group, 2, seed=group.rank)))

    with pytest.raises(ValueError, match="must start alike, but rank 1 does not") as caught:
        simulate_ranks(2, run)
    assert "as rank 0 does: seed is 1 in place of 0; give all the same" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": True}, "overlap=True works on one rank only, got 2"),
        (
            {"emit_reference": True},
            "emit_reference must not be True with quota='global'",
        ),
    ],
)
def test_what_ranks_cannot_do_together_is_refused(folder, options, message):
    class WithReference(ByNumber):
        reference = None

        def snapshot(self):
            return self

    def run(group):
        source = ZarrSource(folder, batch_size=12)
        selector = JointSelector(4, quota="global")
        sizes = {"super_batch_size": 24, "sub_batch_size": 6}
        loader = jest_dataset(source, WithReference(), selector, group=group, **sizes, **options)
        if group.size > 1:
            with pytest.raises(ValueError, match=message):
                len(loader)  # And it still is after that:
        return len(loader)

    with pytest.raises(ValueError, match=message):
        simulate_ranks(2, run)
    assert simulate_ranks(1, run) == [10]


def test_a_rank_that_fails_ends_the_others_with_its_number():
    def run(group):
        try:
            return read(Consecutive(8, fails_at=5 if group.rank == 1 else None), group)
        except (OSError, RankError) as error:
            return str(error)

    ended = simulate_ranks(3, run)
    assert ended[1] == "the disk is gone"
    assert "rank 1 of 3 failed while reading" in ended[0]
    assert "the error on rank 1 says why" in ended[2]


def test_a_lost_shard_ends_all_ranks():
    class Promising(Consecutive):
        def __len__(self):
            return 8

    def run(group):
        try:
            return read(Promising(8 if group.rank == 0 else 5), group)
        except (ValueError, RankError) as error:
            return str(error)

    ended = simulate_ranks(2, run)
    # Eight batches of four, the last of which may be short.
    assert "must yield the 29 examples that its length promises, but ended after 20" in ended[1]
    assert "rank 1 of 2 failed while ending an epoch" in ended[0]


def read_until_killed(rank: int, victim: int) -> int:
    source = Consecutive(1000, pause_s=0.01)
    loader = jest_dataset(
        source, None, UniformSelector(), own_rows=True, super_batch_size=8, sub_batch_size=2
    )
    for step, _ in enumerate(loader):
        if rank == victim and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return rank


def test_a_killed_process_ends_the_others_with_an_error():
    ended = launch(3, read_until_killed, 1)
    assert ended[1] == (None, None)
    for one in (ended[0], ended[2]):
        assert "RankError: all ranks must answer within the timeout" in one.error
        assert "rank 1 has died or stalled" in one.error


def read_slowly(rank: int) -> tuple[int, dict[str, int]]:
    return read(Consecutive(8, pause_s=0.15 if rank == 1 else 0.0))


def test_a_slow_disk_on_one_rank_only_makes_the_others_wait():
    ended = launch(2, read_slowly)
    assert [one.result for one in ended] == [ended[0].result] * 2, ended
    assert ended[0].result[0] == 4


def stall_on_one(rank: int) -> int:
    return read(Consecutive(8, pause_s=5.0 * rank))[0]


def test_a_stalled_rank_ends_the_others_within_the_groups_timeout():
    start = time.monotonic()
    ended = launch(2, stall_on_one, timeout_s=2.0)
    assert "waited in vain; rank 1 has" in ended[0].error
    assert time.monotonic() - start < 30


def iterate_on_rank_0(rank, folder):
    """Rank 1 is elsewhere in a collective of its own, as under a loader that dispatches."""
    if rank == 1:
        with pytest.raises(RuntimeError):
            dist.broadcast(torch.zeros(1), src=0)
        return None
    logs = io.StringIO()
    logging.getLogger("jest_loader").addHandler(logging.StreamHandler(logs))
    roll_call.PATIENCE_S = 0.5
    with pytest.raises(RankError) as caught:
        next(iter(dataset(folder, None, 2)))
    return str(caught.value), logs.getvalue()


def test_a_rank_that_does_not_begin_a_pass_is_named(folder):
    (said, logged), _ = (
        ended.result for ended in launch(2, iterate_on_rank_0, folder, timeout_s=3.0)
    )
    assert "must begin a pass over a JestDataset together, but rank 0 of 2 waited in vain" in said
    assert "for rank 1; iterate the dataset on each rank" in said
    assert logged.startswith("rank 0 of 2 waits for rank 1 to begin a pass over a JestDataset")


def begin_late(rank, folder):
    time.sleep(1.5 * rank)
    roll_call.PATIENCE_S = 0.5
    return [len(list(dataset(folder, None, 2))) for _ in range(2)]


def test_a_rank_that_begins_late_is_waited_for(folder):
    first, second = launch(2, begin_late, folder)
    assert first == second == Ended([5, 5])


def leave_early(rank, folder):
    """Rank 1 leaves the loop alone and begins another pass, as under a limit of time."""
    roll_call.PATIENCE_S = 0.5
    data = dataset(folder, None, 2)
    batches = iter(data)
    next(batches)
    return len(list(data if rank == 1 else batches))


def test_a_rank_that_leaves_a_pass_alone_ends_the_others(folder):
    """They would take what it says at the start of another for the end of theirs."""
    first, second = launch(2, leave_early, folder)
    assert "rank 1 does something else than rank 0, which is reading; leave" in first.error
    assert "rank 0 does something else than rank 1" in second.error
