"""webdataset as a source, by the table of docs/sources.md."""

import itertools

import pytest

from tests.frameworks.sources import LEFT_OVER, WHOLE, Measuring, check, check_ranks

webdataset = pytest.importorskip("webdataset")
pytestmark = pytest.mark.filterwarnings("ignore")

SHUFFLED = "`WebDataset(shards, shardshuffle=n).batched(n)`"
SHUFFLED_0 = "webdataset 0.2, the same"
LOADERS = {
    SHUFFLED_0 if webdataset.__version__.startswith("0.") else SHUFFLED: {"shardshuffle": 10},
    "`WebDataset(..., detshuffle=True, nodesplitter=split_by_node)`": {
        "shardshuffle": 10, "detshuffle": True, "nodesplitter": webdataset.split_by_node
    },
    "`WebLoader(..., batch_size=None)`": {
        "shardshuffle": 10, "detshuffle": True, "nodesplitter": webdataset.split_by_node,
        "in_loader": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Shards of 10 rows."""
    folders = {n: tmp_path_factory.mktemp(f"rows{n}") for n in (WHOLE, LEFT_OVER)}
    for num_rows, folder in folders.items():
        with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=10, verbose=0) as writer:
            for n in range(num_rows):
                writer.write({"__key__": f"{n:05d}", "txt": f"row {n}", "cls": n})
    return folders


def loader(folder, *, in_loader=False, num_workers=0, **options):
    num_shards = len([*folder.glob("*.tar")])
    shards = f"{folder}/{{0000..{num_shards - 1:04d}}}.tar"
    batches = webdataset.WebDataset(shards, **{"shardshuffle": False, **options})
    batches = batches.decode().to_tuple("txt", "cls").batched(10)
    if in_loader:
        return webdataset.WebLoader(batches, batch_size=None, num_workers=num_workers)
    return batches


def make(folder, name):
    return loader(folder, **LOADERS[name])


def number(batch):
    texts, numbers = batch
    assert texts == [f"row {n}" for n in numbers]
    return numbers


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_does_what_the_page_says(name, folders):
    check(name, lambda num_rows: make(folders[num_rows], name), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_two_ranks_do_what_the_page_says(name, folders):
    check_ranks(name, make, number, folders[WHOLE], name)


def test_workers_divide_the_shards(folders):
    data = Measuring(lambda n: loader(folders[n], in_loader=True, num_workers=2), number)
    assert sorted(row for rows in data.passed(data.dataset()) for row in rows) == [*range(WHOLE)]


@pytest.mark.parametrize("in_loader", [False, True])
def test_shards_without_end_are_drawn_as_long_as_asked(in_loader, folders):
    def endless(num_rows):
        return loader(folders[num_rows], in_loader=in_loader, resampled=True)

    data = Measuring(endless, number)
    assert data.length() == "no"
    dataset = data.dataset()
    for _ in range(2):
        assert len([*itertools.islice(dataset, 9)]) == 9
    dataset.set_epoch(7)
    assert len([*itertools.islice(dataset, 9)]) == 9
    dataset.close()


def test_with_epoch_ends_a_pass_of_shards_without_end(folders):
    def make(num_rows):
        return loader(folders[num_rows], resampled=True).with_epoch(num_rows // 10)

    data = Measuring(make, number)
    dataset = data.dataset()
    assert [len(data.passed(dataset)) for _ in range(2)] == [4, 4]
