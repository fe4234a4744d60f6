"""A run chooses the same samples on any number of ranks, and goes on with another number."""

import pytest

from jest_loader import (
    Schedule,
    UniformSelector,
)
from jest_loader.testing import simulate_ranks
from tests.helpers import Counting, jest_dataset
from tests.ranks.builders import over_ranks


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_any_number_of_ranks_chooses_the_same_samples(folder, num_ranks):
    expected, state = over_ranks(folder, 1)
    found, found_state = over_ranks(folder, num_ranks)
    assert len(expected) == 10
    assert found == expected
    assert found_state == state
    assert state["counts"] == {
        "loaded": 480, "scored": 480, "trained": 120, "dropped": 0, "skipped": 0, "seen": 0
    }  # fmt: skip


def test_any_number_of_ranks_chooses_the_same_samples_in_uniform_steps(folder):
    schedule = Schedule(10, uniform_every=2)
    expected, _ = over_ranks(folder, 1, schedule=schedule)
    assert over_ranks(folder, 2, schedule=schedule)[0] == expected


@pytest.mark.parametrize("stop", [1, 4, 5, 7])
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_a_run_on_two_ranks_goes_on_with_another_number(folder, num_ranks, stop):
    expected, end = over_ranks(folder, 2)
    begun, state = over_ranks(folder, 2, stop=stop)
    rest, rest_end = over_ranks(folder, num_ranks, state=state)
    assert begun + rest == expected
    assert rest_end == end


@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_a_run_with_equal_quotas_goes_on_as_it_would_have(folder, stop):
    expected, end = over_ranks(folder, 3, quota="equal")
    begun, state = over_ranks(folder, 3, quota="equal", stop=stop)
    rest, rest_end = over_ranks(folder, 3, quota="equal", state=state)
    assert begun + rest == expected
    assert rest_end == end


def test_another_global_super_batch_is_refused_by_name(folder):
    _, state = over_ranks(folder, 2, stop=2)
    with pytest.raises(ValueError, match="super_batch_size over all ranks was 48 and is now 96"):
        over_ranks(folder, 2, state=state, super_batch_size=48)


def test_sources_without_shard_refuse_another_number_of_ranks():
    def run(group, state=None):
        loader = jest_dataset(
            Counting(6, 4 if group.size > 1 else 8),
            None,
            UniformSelector(),
            group=group,
            own_rows=True,
            super_batch_size=8 if group.size > 1 else 16,
            sub_batch_size=2 if group.size > 1 else 4,
        )
        if state is not None:
            loader.load_state_dict(state)
        next(iter(loader))
        return loader.state_dict()

    states = simulate_ranks(2, run)
    assert states[0] == states[1]
    with pytest.raises(ValueError, match="number of ranks was 2 and is now 1"):
        simulate_ranks(1, lambda group: run(group, states[0]))
