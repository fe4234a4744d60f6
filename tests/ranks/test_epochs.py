"""Ranks end an epoch together, also where some have more data than others."""

import pytest

from jest_loader import (
    UniformSelector,
)
from jest_loader.testing import simulate_ranks
from tests.helpers import Counting, jest_dataset
from tests.ranks.builders import Consecutive, dataset, read


def test_len_is_that_of_one_process(folder):
    def run(group):
        loader = dataset(folder, group, group.size)
        return len(loader), len(list(loader))

    for num_ranks in (1, 2, 3, 4):
        assert simulate_ranks(num_ranks, run) == [(5, 5)] * num_ranks


def test_ranks_stop_together_where_the_first_runs_short():
    lengths = [7, 10, 8]
    ended = simulate_ranks(3, lambda group: read(Consecutive(lengths[group.rank]), group))
    assert [steps for steps, _ in ended] == [3, 3, 3]
    # Rank 0 has a batch left, rank 1 and rank 2 have read a super-batch that rank 0 has not.
    dropped = 4 + 8 + 8
    assert [counts["dropped"] for _, counts in ended] == [dropped] * 3


@pytest.mark.parametrize("with_epochs", [True, False])
def test_ranks_share_one_state_after_an_epoch_that_some_had_more_of(with_epochs):
    """Without epochs a source cannot leave one: then the state has nothing of it."""

    class WithoutEpochs:
        def __init__(self, num_batches, batch_size):
            self.inner, self.batch_size = Counting(num_batches, batch_size), batch_size

        def __iter__(self):
            return iter(self.inner)

        def state_dict(self):
            return self.inner.state_dict()

        def load_state_dict(self, state_dict):
            self.inner.load_state_dict(state_dict)

    kind = Counting if with_epochs else WithoutEpochs

    def run(group, state=None):
        loader = jest_dataset(
            kind([7, 10][group.rank], 4),
            None,
            UniformSelector(),
            group=group,
            own_rows=True,
            super_batch_size=8,
            sub_batch_size=8,
        )
        if state is not None:
            loader.load_state_dict(state)
        return [sorted(batch["number"].tolist()) for batch in loader], loader.state_dict()

    ((first, state), (second, other)) = simulate_ranks(2, run)
    assert state == other
    assert len(first) == len(second) == 3
    assert (state["source"] is None) == (not with_epochs)
    ((_, state), (_, other)) = simulate_ranks(2, lambda group: run(group, state))
    assert state == other
    assert state["super_batches"] == 0
    assert state["epoch"] == 2
