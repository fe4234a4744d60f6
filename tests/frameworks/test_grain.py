"""grain_dataset and GrainSource with Grain, JAX and Orbax: exact from each checkpoint."""

import time
from itertools import islice

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import JestDataset, Options, UniformSelector
from jest_loader.ragged import RaggedBytes
from jest_loader.testing.conformance import check_source
from tests.frameworks.toy import pairs

grain = pytest.importorskip("grain", reason="make frameworks installs it")

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import flags

from jest_loader.adapters.grain import GrainSource, grain_dataset
from tests.frameworks.jax_toy import (
    STEPS,
    Run,
    equal,
    overwriting_step,
    rows,
    shuffled,
    state_of,
    step,
)

NUM_EPOCHS = 3
flags.FLAGS.mark_as_parsed()  # As absl's app.run does; Grain's worker processes ask for it.


def uniform(source, size=40, **options):
    """A dataset whose sub-batches are a fifth of the rows, drawn without a model."""
    return JestDataset(
        source, None, UniformSelector(), super_batch_size=size, sub_batch_size=size // 5, **options
    )


@pytest.fixture
def manager(tmp_path):
    """Orbax, which keeps all that it saves."""
    with ocp.CheckpointManager(tmp_path / "checkpoints") as made:
        yield made


def save(manager, run, batches):
    manager.save(
        run.num_steps,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(run.params),
            batches=grain.checkpoint.CheckpointSave(batches),
        ),
    )


def restore(manager, num_steps, run, batches):
    found = manager.restore(
        num_steps,
        args=ocp.args.Composite(
            params=ocp.args.StandardRestore(run.params),
            batches=grain.checkpoint.CheckpointRestore(batches),
        ),
    )
    run.params = found["params"]


@pytest.mark.slow
def test_a_run_goes_on_exactly_from_each_checkpoint(manager):
    whole = Run()
    batches = iter(grain_dataset(whole.dataset, num_epochs=NUM_EPOCHS))
    seen = whole.train(batches, lambda: save(manager, whole, batches))
    manager.wait_until_finished()
    assert len(seen) == NUM_EPOCHS * STEPS
    for done in range(1, len(seen)):
        resumed = Run()
        batches = iter(grain_dataset(resumed.dataset, num_epochs=NUM_EPOCHS))
        restore(manager, done, resumed, batches)
        assert resumed.train(batches) == seen[done:], done
        assert equal(resumed.params, whole.params)


def test_each_epoch_is_shuffled_anew_and_the_step_is_compiled_once():
    compiled = step._cache_size()
    run = Run()
    seen = run.train(grain_dataset(run.dataset, num_epochs=NUM_EPOCHS))
    epochs = [str(seen[start : start + STEPS]) for start in range(0, len(seen), STEPS)]
    assert len({*epochs}) == NUM_EPOCHS
    assert step._cache_size() - compiled <= 1
    assert run.scored_at == list(range(NUM_EPOCHS * STEPS))  # With the params of that step.


def test_without_a_number_of_epochs_it_repeats_for_ever():
    run = Run()
    assert len(list(grain_dataset(run.dataset))) == STEPS
    run = Run()
    assert len(run.train(islice(grain_dataset(run.dataset, num_epochs=None), 9))) == 9


def test_a_finished_run_goes_on_with_more_epochs():
    run = Run()
    whole = run.train(grain_dataset(run.dataset, num_epochs=2))
    run = Run()
    batches = iter(grain_dataset(run.dataset))
    first = run.train(batches)
    more = iter(grain_dataset(run.dataset, num_epochs=2))
    more.set_state(state_of(batches))
    assert first + run.train(more) == whole


def test_overlap_with_overwritten_params_goes_on_exactly():
    whole, saved = Run(overlap=True), []
    whole.step = overwriting_step
    batches = iter(grain_dataset(whole.dataset, num_epochs=2))

    def save_third():
        if whole.num_steps == 3:
            saved.append((jax.tree.map(jnp.copy, whole.params), state_of(batches)))

    seen = whole.train(batches, save_third)
    assert len(seen) == 2 * STEPS
    resumed = Run(overlap=True)
    (resumed.params, state), resumed.step = saved[0], overwriting_step
    batches = iter(grain_dataset(resumed.dataset, num_epochs=2))
    batches.set_state(state)
    assert resumed.train(batches) == seen[3:]
    assert equal(resumed.params, whole.params)


def prefetched(dataset):
    return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)


@pytest.mark.parametrize("behind", [lambda dataset: dataset, prefetched], ids=["bare", "prefetch"])
def test_grains_own_check_of_checkpoints(behind):
    dataset = behind(grain_dataset(lambda: uniform(GrainSource(shuffled)), num_epochs=2))
    grain.experimental.assert_equal_output_after_checkpoint(dataset)


@pytest.mark.parametrize(
    ("behind", "most"),
    [(prefetched, 3), (lambda dataset: grain.experimental.device_put(dataset, None), 8)],
    ids=["prefetch", "device_put"],
)
def test_behind_a_prefetch_scores_are_stale_by_its_buffers(behind, most):
    run = Run()

    def once_buffers_are_full(batches):
        for batch in batches:
            deadline = time.monotonic() + 60
            while len(run.scored_at) <= most and time.monotonic() < deadline:
                time.sleep(0.01)
            yield batch

    batches = behind(grain_dataset(run.dataset, num_epochs=NUM_EPOCHS))
    assert len(run.train(once_buffers_are_full(batches))) == NUM_EPOCHS * STEPS
    assert max(number - done for number, done in enumerate(run.scored_at)) == most


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_are_refused(num_workers):
    dataset = grain_dataset(Run().dataset).map(lambda batch: batch)
    workers = grain.MultiprocessingOptions(num_workers=num_workers)
    with pytest.raises(ValueError, match=r"must run in the training process, .* leave out mp_pref"):
        next(iter(dataset.mp_prefetch(workers)))


def test_tensors_become_arrays_over_the_same_memory_and_the_rest_stays():
    kept = {}

    def materialize(batch):
        kept["x"] = batch["x"].requires_grad_()
        return batch

    columns = {
        "x": torch.rand(40, 3), "caption": [f"{n}" for n in range(40)], "label": np.arange(40),
        "file": RaggedBytes([b"%d" % n for n in range(40)]),
    }  # fmt: skip
    (batch,) = grain_dataset(lambda: uniform([columns], materialize=materialize))
    assert np.shares_memory(batch["x"], kept["x"].detach().numpy())
    chosen = batch["label"].tolist()
    assert batch["caption"] == [f"{n}" for n in chosen]
    assert isinstance(batch["file"], RaggedBytes)
    assert list(batch["file"]) == [b"%d" % n for n in chosen]


def test_a_closed_iterator_does_not_go_on():
    batches = iter(grain_dataset(Run().dataset))
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="a closed iterator must not go on"):
        next(batches)
    with pytest.raises(ValueError, match="closed iterator"):
        next(iter(batches))


def test_what_was_chosen_can_be_asked_for():
    run = Run()
    batches = iter(grain_dataset(run.dataset))
    run.train(batches)
    numbers = batches.dataset.stats.numbers()
    assert numbers["score"] > numbers["uniform_score"]
    assert batches.dataset.counts.trained == 8 * STEPS


def test_a_state_that_is_not_json_is_refused():
    source = StatefulDataLoader(pairs(), batch_size=8, shuffle=True)
    batches = iter(grain_dataset(lambda: uniform(source)))
    next(batches)
    with pytest.raises(
        ValueError, match=r"must be JSON, .* StatefulDataLoader .*; use GrainSource"
    ):
        batches.get_state()


def test_what_is_no_dataset_is_refused():
    with pytest.raises(ValueError, match="num_epochs must be a whole number of at least 1, got 0"):
        grain_dataset(Run().dataset, num_epochs=0)
    with pytest.raises(ValueError, match="make must return a JestDataset, got list"):
        iter(grain_dataset(lambda: [1]))


def numbers(epoch, size=176):
    return grain.MapDataset.range(size).seed(epoch).shuffle().map(lambda number: {"id": number})


def loader(epoch, worker_count=0):
    sampler = grain.samplers.IndexSampler(176, shuffle=True, seed=epoch, num_epochs=1)
    return grain.DataLoader(
        data_source=[{"id": number} for number in range(176)],
        sampler=sampler,
        operations=[grain.transforms.Batch(8)],
        worker_count=worker_count,
    )


def windowed(epoch):
    few = numbers(epoch, size=40).to_iter_dataset()  # Grain takes 10 ms for a row of a window.
    window = grain.experimental.WindowShuffleIterDataset(few, window_size=20, seed=epoch)
    return window.batch(8)


PIPELINES = {
    "MapDataset": lambda epoch: numbers(epoch).batch(16),
    "IterDataset": lambda epoch: numbers(epoch).to_iter_dataset().batch(16),
    "filtered": lambda epoch: (
        numbers(epoch).to_iter_dataset().filter(lambda row: row["id"] % 3 > 0).batch(16)
    ),
    "window": windowed,
    "DataLoader": loader,
}


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_of_grain_is_a_source_that_goes_on_exactly(pipeline):
    check_source(
        lambda: GrainSource(PIPELINES[pipeline]),
        id_column="id",
        num_rows={"filtered": 117, "window": 40}.get(pipeline, 176),
        shards=False,
    )


def with_worker(epoch):
    worker = grain.MultiprocessingOptions(num_workers=1)
    return numbers(epoch).batch(8).to_iter_dataset().mp_prefetch(worker)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline",
    [lambda epoch: loader(epoch, worker_count=1), with_worker],
    ids=["DataLoader", "mp_prefetch"],
)
def test_a_pipeline_with_workers_goes_on_exactly(pipeline):
    whole, seen = uniform(GrainSource(pipeline)), []
    for batch in whole:
        seen.append(batch["id"].tolist())
        if len(seen) == 2:
            state = whole.state_dict()
    resumed = uniform(GrainSource(pipeline))
    resumed.load_state_dict(state)
    assert [batch["id"].tolist() for batch in resumed] == seen[2:]
    assert resumed.state_dict() == whole.state_dict()


def test_an_older_iterator_does_not_move_the_source():
    source = GrainSource(shuffled)
    older = iter(source)
    next(older)
    source.set_epoch(3)
    assert len(list(older)) == 21
    assert source.state_dict()["epoch"] == 3


def test_a_source_that_was_left_starts_its_next_epoch():
    dataset = uniform(GrainSource(shuffled))
    for _ in dataset:
        break
    left = [batch["id"].tolist() for batch in dataset]
    dataset = uniform(GrainSource(shuffled))
    dataset.set_epoch(1)
    assert [batch["id"].tolist() for batch in dataset] == left


def test_a_source_that_is_told_its_size_gives_a_length():
    options = Options(batch_size=8, num_examples=176)
    dataset = uniform(GrainSource(shuffled), options=options)
    assert len(dataset) == len(list(dataset)) == STEPS


def test_what_is_no_pipeline_or_no_state_of_one_is_refused():
    with pytest.raises(ValueError, match=r"must be a function of the epoch, got \w+MapDataset; wr"):
        GrainSource(grain.MapDataset.source(rows()).batch(8))
    with pytest.raises(ValueError, match=r"must hold epoch and iterator, got \{'epoch': 1\}; load"):
        GrainSource(shuffled).load_state_dict({"epoch": 1})


def test_a_pipeline_as_it_is_cannot_be_resumed_and_says_so():
    dataset = uniform(numbers(0).batch(8))
    assert len(list(dataset)) == STEPS
    with pytest.raises(ValueError, match=r"can be neither saved nor .* source from jest_loader.ad"):
        dataset.state_dict()
