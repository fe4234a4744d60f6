"""Hugging Face datasets as sources, by the table of docs/sources.md."""

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader.adapters.parquet import ParquetSource
from tests.frameworks.sources import WHOLE, Measuring, check, check_ranks

datasets = pytest.importorskip("datasets")
of_node = pytest.importorskip("datasets.distributed").split_dataset_by_node
pytestmark = pytest.mark.filterwarnings("ignore")

LOADERS = {
    "Hugging Face `Dataset` in a `StatefulDataLoader`": lambda data: StatefulDataLoader(
        data.select_columns("number").with_format("torch"), 10, shuffle=True
    ),
    "`IterableDataset.batch(n)`": lambda data: stream(data).batch(10),
    "`.shuffle(seed, buffer_size=1).batch(n)`": lambda data: (
        stream(data).shuffle(1, buffer_size=1).batch(10)
    ),
    "`.shuffle(seed, buffer_size=1000).batch(n)`": lambda data: (
        stream(data).shuffle(1, buffer_size=40).batch(10)
    ),
    "`split_dataset_by_node(data, rank, num_ranks).batch(n)`": lambda data: of_rank(data).batch(10),
}


def stream(data):
    return data.to_iterable_dataset(num_shards=20)


def of_rank(data):
    """Of the rank that asks, or of one that is alone."""
    ranks = torch.distributed
    rank, size = (ranks.get_rank(), ranks.get_world_size()) if ranks.is_initialized() else (0, 1)
    return of_node(stream(data), rank, size)


def make(name, num_rows):
    numbers = [*range(num_rows)]
    tokens = [[*range(row % 5)] for row in range(num_rows)]
    return LOADERS[name](datasets.Dataset.from_dict({"number": numbers, "tokens": tokens}))


def number(batch):
    if "tokens" in batch:
        lengths = [len(tokens) for tokens in batch["tokens"]]
        assert lengths == [row % 5 for row in batch["number"]], "ragged columns"
    return batch["number"]


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_does_what_the_page_says(name):
    check(name, lambda num_rows: make(name, num_rows), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_two_ranks_do_what_the_page_says(name):
    check_ranks(name, make, number, name, WHOLE)


def test_a_buffer_loses_the_rows_that_it_held():
    data = Measuring(lambda n: make("`.shuffle(seed, buffer_size=1000).batch(n)`", n), number)
    dataset = data.dataset()
    first = data.numbers(next(iter(dataset)))
    resumed = data.dataset()
    resumed.load_state_dict(dataset.state_dict())
    rest = [row for rows in data.passed(resumed) for row in rows]
    assert len({*first, *rest}) <= WHOLE - 40


def test_a_stream_in_a_loader_is_told_its_epoch():
    rows = datasets.Dataset.from_dict({"number": [*range(WHOLE)]})

    def loader(_):
        return DataLoader(stream(rows).shuffle(1, buffer_size=40).with_format("torch"), 10)

    assert Measuring(loader, lambda batch: batch["number"]).order() == "`set_epoch`"


def test_what_to_parquet_writes_is_a_source(tmp_path):
    features = datasets.Features({
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "emb": datasets.Sequence(datasets.Value("float32"), length=2),
        "tags": datasets.Sequence(datasets.Value("string")),
    })  # fmt: skip
    images = [b"picture %d" % n for n in range(25)]
    rows = {
        "image": [{"bytes": image, "path": None} for image in images],
        "text": [f"text {n}" for n in range(25)],
        "emb": [[n, n / 2] for n in range(25)],
        "tags": [["a"] * (n % 3) for n in range(25)],
    }
    table = datasets.table.InMemoryTable.from_pydict(rows, schema=features.arrow_schema)
    data = datasets.Dataset(table, datasets.DatasetInfo(features=features), fingerprint="rows")
    data.to_parquet(tmp_path / "a.parquet", batch_size=10)
    (batch,) = ParquetSource(tmp_path, batch_size=25, shuffle=False)
    assert batch["image"] == images
    assert batch["text"] == rows["text"]
    assert batch["emb"].tolist() == rows["emb"]
    assert [*batch] == ["image", "text", "emb", "skip_reason", "sample_id"]
