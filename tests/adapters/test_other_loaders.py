"""Loaders of other projects as sources, just as they are; each where it is installed."""

import numpy as np
import pytest
import torch

from jest_loader import ExampleScores, JestDataset, TopKSelector
from jest_loader.testing import assert_resumes_exactly

pytestmark = pytest.mark.filterwarnings("ignore")  # They leave files open, and more.

NUM_ROWS = 200


class ByNumber:
    def __init__(self, number):
        self.number = number

    def score(self, super_batch):
        return ExampleScores(torch.as_tensor(np.asarray(self.number(super_batch))).double())


def make(source, number):
    return JestDataset(
        source, ByNumber(number), TopKSelector(), super_batch_size=50, sub_batch_size=10
    )


def check_whole(dataset, number):
    """Every super-batch of 50 gave its 10 highest."""
    batches = list(dataset)
    assert len(batches) == NUM_ROWS // 50
    assert dataset.counts.loaded == NUM_ROWS
    found = [np.asarray(number(batch)).tolist() for batch in batches]
    assert len({n for batch in found for n in batch}) == 40
    assert max(n for batch in found for n in batch) == NUM_ROWS - 1
    return batches


@pytest.mark.parametrize("num_workers", [None, 2])
def test_webdataset(num_workers, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "d-%04d.tar"), maxcount=50, verbose=0) as writer:
        for n in range(NUM_ROWS):
            writer.write({"__key__": f"{n:05d}", "txt": f"row {n}", "cls": n})
    shards = str(tmp_path / "d-{0000..0003}.tar")
    batches = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .decode()
        .to_tuple("txt", "cls")
        .batched(10)
    )
    if num_workers is not None:
        batches = webdataset.WebLoader(batches, batch_size=None, num_workers=num_workers)
    for texts, numbers in check_whole(make(batches, lambda b: b[1]), lambda b: b[1]):
        assert texts == [f"row {n}" for n in numbers]


def test_hugging_face_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(
        {"n": list(range(NUM_ROWS)), "tokens": [list(range(n % 5)) for n in range(NUM_ROWS)]}
    )

    def stream():
        return make(rows.to_iterable_dataset(num_shards=4).batch(10), lambda b: b["n"])

    for batch in check_whole(stream(), lambda b: b["n"]):
        assert batch["tokens"] == [list(range(n % 5)) for n in batch["n"]], "ragged columns"
    assert_resumes_exactly(stream)


def test_litdata(tmp_path):
    litdata = pytest.importorskip("litdata")
    litdata.optimize(_row, list(range(NUM_ROWS)), str(tmp_path), num_workers=1, chunk_size=50)
    loader = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(tmp_path), shuffle=True), batch_size=10, num_workers=0
    )
    dataset = make(loader, lambda b: b["n"])
    batches = iter(dataset)
    first = [next(batches)["n"].tolist() for _ in range(2)]
    state = dataset.state_dict()
    rest = [batch["n"].tolist() for batch in batches]
    assert len(first) + len(rest) == NUM_ROWS // 50

    loader = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(tmp_path), shuffle=True), batch_size=10, num_workers=0
    )
    dataset = make(loader, lambda b: b["n"])
    dataset.load_state_dict(state)
    assert [batch["n"].tolist() for batch in dataset] == rest


def test_torchdata_nodes():
    nodes = pytest.importorskip("torchdata.nodes")

    def stream():
        rows = [_row(n) for n in range(NUM_ROWS)]
        batches = nodes.Mapper(
            nodes.Batcher(nodes.IterableWrapper(rows), 10), torch.utils.data.default_collate
        )
        return make(nodes.Loader(batches, restart_on_stop_iteration=False), lambda b: b["n"])

    check_whole(stream(), lambda b: b["n"])
    assert_resumes_exactly(stream)


def _row(n):
    return {"n": n, "caption": f"row {n}"}
