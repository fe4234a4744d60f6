"""Schedules: which steps are uniform, how many candidates are read, and that resume is exact."""

import json

import pytest
import torch

from jest_loader import (
    Counts,
    ExampleScores,
    IndependentSelector,
    JointSelector,
    Schedule,
    TopKSelector,
)
from jest_loader.testing import assert_resumes_exactly
from tests.helpers import Counting, jest_dataset, numbered_batches


class ByNumber:
    def score(self, super_batch):
        return ExampleScores(50 * super_batch["number"].double())


def make(schedule, source=None, selector=None, **options):
    return jest_dataset(
        source if source is not None else numbered_batches(24, 4),
        ByNumber(),
        selector or JointSelector(2),
        super_batch_size=12,
        sub_batch_size=4,
        schedule=schedule,
        **options,
    )


def delivered(dataset):
    return [sorted(batch["number"].tolist()) for batch in dataset]


def test_selection_starts_and_stops_at_fractions_of_the_run():
    dataset = make(Schedule(10, start_fraction=0.2, stop_fraction=0.6))
    found = delivered(dataset)
    # Two uniform steps read 4 rows each; then 12 candidates each for steps 2 to 5; then 4 again.
    assert found[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found[2:6] == [[12 * n + 16, 12 * n + 17, 12 * n + 18, 12 * n + 19] for n in range(4)]
    assert found[6:] == [[n, n + 1, n + 2, n + 3] for n in range(56, 96, 4)]
    assert dataset.counts == Counts(loaded=96, scored=48, trained=64)


def test_every_third_batch_is_uniform_over_epochs():
    dataset = make(Schedule(100, uniform_every=3), numbered_batches(7, 4))
    # 4 + 12 + 12 rows an epoch, and 28 are there: the next epoch begins at step 3.
    for _ in range(2):
        assert delivered(dataset) == [[0, 1, 2, 3], [12, 13, 14, 15], [24, 25, 26, 27]]
    assert len(dataset) == 3
    assert dataset.counts == Counts(loaded=56, scored=48, trained=24)


def test_the_filter_ratio_changes_over_the_run():
    dataset = make(Schedule(4, filter_ratio={0.5: 0.5, 0.75: 0.8}))
    assert len(dataset) == 6
    sizes = [dataset.stats.counts.loaded for _ in dataset]
    assert sizes == [12, 12, 8, 20, 20, 20]
    assert dataset.counts.dropped == 96 - sum(sizes)


def test_gain_is_linear_between_its_points():
    schedule = Schedule(10, gain={0.2: 1.0, 0.6: 3.0})
    assert [schedule.gain_at(step) for step in (0, 2, 3, 4, 6, 9, 99)] == pytest.approx(
        [1, 1, 1.5, 2, 3, 3, 3]
    )
    assert Schedule(10).gain_at(5) == 1


def test_the_gain_multiplies_the_selectors():
    class Flat:
        def score(self, super_batch):
            return ExampleScores(super_batch["number"].float() / 100)

    def run(selector, schedule):
        dataset = jest_dataset(
            numbered_batches(30, 4),
            Flat(),
            selector,
            super_batch_size=40,
            sub_batch_size=4,
            schedule=schedule,
        )
        return delivered(dataset)

    assert run(IndependentSelector(0.5), Schedule(3, gain={0.0: 6.0})) == run(
        IndependentSelector(3.0), None
    )
    assert run(IndependentSelector(0.5), None) != run(IndependentSelector(3.0), None)


def test_resume_is_exact_under_a_schedule():
    schedule = Schedule(
        9, start_fraction=0.1, uniform_every=4, filter_ratio={0.4: 0.5}, gain={0.0: 0.1, 1.0: 2.0}
    )
    assert_resumes_exactly(lambda: make(schedule, Counting(13, 4)), num_epochs=3)


def test_a_state_belongs_to_its_schedule():
    dataset = make(Schedule(9, uniform_every=4), Counting(13, 4))
    next(iter(dataset))
    state = json.loads(json.dumps(dataset.state_dict()))
    make(Schedule(9, uniform_every=4), Counting(13, 4)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"schedule was Schedule\(num_steps=9.* is now None"):
        make(None, Counting(13, 4)).load_state_dict(state)


def test_a_schedule_is_the_same_however_it_is_written():
    dataset = make(Schedule(9, filter_ratio={0.4: 0.5, 0: 0.75}, gain={1: 2}), Counting(16, 4))
    next(iter(dataset))
    again = Schedule(9, filter_ratio={0.0: 0.75, 0.4: 0.5}, gain={1.0: 2.0})
    make(again, Counting(16, 4)).load_state_dict(dataset.state_dict())


def test_a_uniform_step_reads_whole_source_batches():
    dataset = jest_dataset(
        torch.utils.data.DataLoader([{"number": n} for n in range(90)], batch_size=6),
        ByNumber(),
        TopKSelector(),
        super_batch_size=18,
        sub_batch_size=8,
        schedule=Schedule(10, stop_fraction=0.2),
    )
    loaded = [dataset.stats.counts.loaded for _ in dataset]
    assert loaded == [18, 18, 12, 12, 12, 12]


def test_an_online_proxy_learns_from_uniform_steps_too():
    class Learning(ByNumber):
        updates = 0

        def update(self, sub_batch):
            self.updates += 1

    scorer = Learning()
    dataset = jest_dataset(
        numbered_batches(10, 4),
        scorer,
        super_batch_size=8,
        sub_batch_size=4,
        schedule=Schedule(10, uniform_every=2),
    )
    num_sub_batches = len(list(dataset))
    assert scorer.updates == num_sub_batches == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps of a schedule must be a whole number of at least 1, got 0"),
        ({"num_steps": "5"}, "num_steps of a schedule must be a whole number .* got '5'"),
        ({"start_fraction": "x"}, "start_fraction of a schedule must be from 0 to 1, got 'x'"),
        ({"start_fraction": 0.9, "stop_fraction": 0.1}, r"0\.9 and 0\.1; such a run would select"),
        ({"filter_ratio": 0.5}, r"must map fractions .* got 0\.5; write {0\.0: 0\.5}"),
        ({"start_fraction": 1.1}, "start_fraction of a schedule must be from 0 to 1, got 1.1"),
        ({"stop_fraction": -1}, "stop_fraction of a schedule must be from 0 to 1, got -1"),
        (
            {"uniform_every": 1},  # Nothing would be selected.
            "uniform_every of a schedule must be a whole number of at least 2, got 1",
        ),
        (
            {"filter_ratio": {0.0: 1.0}},
            "each value of filter_ratio of a schedule must be .* got 1",
        ),
        ({"filter_ratio": {2.0: 0.5}}, "each fraction of the run in filter_ratio .* got 2.0"),
        ({"gain": {0.0: 0.0}}, r"each value of gain of a schedule must be .*, got 0\.0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"num_steps": 10, **arguments})


def test_a_schedule_must_suit_the_dataset():
    with pytest.raises(ValueError, match=r"is 4\.44 for 4 and 0.1"):
        make(Schedule(10, filter_ratio={0.0: 0.1}))
    with pytest.raises(ValueError, match=r"super_batch_size must be a multiple of .* got 16 and 6"):
        make(Schedule(10, filter_ratio={0.0: 0.75}), Counting(10, 6))
    with pytest.raises(ValueError, match=r"gains needs .* with a gain, got TopKSelector"):
        make(Schedule(10, gain={0.0: 2.0}), selector=TopKSelector())

    class Plain:
        gain = 1.0

        def select(self, scores, size, *, key):
            return torch.arange(size)

    with pytest.raises(ValueError, match="a dataclass with a gain, got Plain"):
        make(Schedule(10, gain={0.0: 2.0}), selector=Plain())


def test_data_smaller_than_the_largest_super_batch_are_refused():
    with pytest.raises(
        ValueError, match=r"0\.96 makes super-batches of 100 .* source has 96; lower"
    ):
        make(Schedule(10, filter_ratio={0.5: 0.96}))
    make(Schedule(10, filter_ratio={0.5: 0.96}), numbered_batches(25, 4))


def test_uniform_steps_of_a_source_without_a_batch_size_say_what_it_needs():
    class Unsized:
        def __iter__(self):
            return iter(numbered_batches(9, 6))

    with pytest.raises(ValueError, match=r"got 4 and 6; .* say Options\(batch_size=6\)"):
        list(make(Schedule(10, stop_fraction=0.1), Unsized()))


def test_a_uniform_step_reads_whole_batches_of_a_list():
    dataset = make(Schedule(10, uniform_every=2), numbered_batches(9, 6))
    assert [dataset.stats.counts.loaded for _ in dataset] == [6, 12, 6, 12, 6, 12]
