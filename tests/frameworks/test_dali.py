"""DALI's iterators as sources, with pipelines of the CPU, by the table of docs/sources.md."""

import itertools

import numpy as np
import pytest
import torch

from tests.frameworks.sources import LEFT_OVER, WHOLE, Measuring, check, check_ranks

dali = pytest.importorskip("nvidia.dali")
plugin = pytest.importorskip("nvidia.dali.plugin.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "`DALIGenericIterator(pipeline, names, reader_name=...)`"
DIVIDED = "DALI, a reader with `shard_id` and `num_shards`"
ENDS = {
    "reset": {},
    "resets itself": {"auto_reset": True},
    "short batches": {"last_batch_policy": plugin.LastBatchPolicy.PARTIAL},
    "dropped": {"last_batch_policy": plugin.LastBatchPolicy.DROP},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {n: tmp_path_factory.mktemp(f"rows{n}") for n in (WHOLE, LEFT_OVER, 205)}
    for num_rows, folder in folders.items():
        for n in range(num_rows):
            np.save(folder / f"{n:04d}.npy", np.full(1, n))
    return folders


@dali.pipeline_def(batch_size=10, num_threads=1, device_id=None)
def pipeline(folder, shard):
    return dali.fn.readers.numpy(
        file_root=str(folder), file_filter="*.npy", random_shuffle=True, initial_fill=1000, seed=5,
        name="reader", **shard,
    )  # fmt: skip


def iterator(folder, divided=False, **options):
    ranks, shard = torch.distributed, {}
    if divided and ranks.is_initialized():
        shard = {"shard_id": ranks.get_rank(), "num_shards": ranks.get_world_size()}
    options = {"reader_name": "reader", **options}
    return plugin.DALIGenericIterator(pipeline(folder, shard), ["number"], **options)


def number(batch):
    [rows] = batch
    return rows["number"]


@pytest.mark.parametrize("name", [NAME, DIVIDED])
@pytest.mark.parametrize("ends", ENDS)
def test_an_iterator_does_what_the_page_says(name, ends, folders):
    check(name, lambda n: iterator(folders[n], name == DIVIDED, **ENDS[ends]), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, DIVIDED])
def test_two_ranks_do_what_the_page_says(name, folders):
    check_ranks(name, iterator, number, folders[WHOLE], name == DIVIDED)


@pytest.mark.parametrize("num_batches", [2, 4])
@pytest.mark.parametrize("num_rows", [WHOLE, LEFT_OVER])
@pytest.mark.parametrize("ends", ["reset", "resets itself"])
def test_an_epoch_that_was_left_is_not_gone_on_with(ends, num_rows, num_batches, folders):
    data = Measuring(lambda n: iterator(folders[n], **ENDS[ends]), number)
    dataset = data.dataset(num_rows)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        found = [data.numbers(batch) for batch in itertools.islice(dataset, num_batches)]
        assert len({row for rows in found for row in rows}) == 50 * num_batches


@pytest.mark.parametrize("ends", ENDS)
def test_a_last_batch_that_is_short_is_no_early_end(ends, folders):
    data = Measuring(lambda n: iterator(folders[n], **ENDS[ends]), number)
    dataset = data.dataset(205)
    assert [len(data.passed(dataset)) for _ in range(2)] == [4, 4]


def test_an_iterator_without_end_is_drawn_as_long_as_asked(folders):
    data = Measuring(lambda n: iterator(folders[n], reader_name=None), number)
    assert data.length() == "no"
    for _ in range(2):
        assert len([*itertools.islice(data.dataset(), 9)]) == 9
