"""litData as a source, by the table of docs/sources.md."""

import pytest

from tests.frameworks.sources import LEFT_OVER, WHOLE, Measuring, check, check_ranks

litdata = pytest.importorskip("litdata")
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "litData `StreamingDataLoader`"


def row(n):
    return {"number": n, "caption": f"row {n}"}


def loader(folder, shuffle=True):
    data = litdata.StreamingDataset(folder, shuffle=shuffle)
    return litdata.StreamingDataLoader(data, batch_size=10, num_workers=0)


def number(batch):
    assert batch["caption"] == [f"row {n}" for n in batch["number"]]
    return batch["number"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {n: str(tmp_path_factory.mktemp(f"rows{n}")) for n in (WHOLE, LEFT_OVER)}
    for num_rows, folder in folders.items():
        litdata.optimize(row, [*range(num_rows)], folder, num_workers=1, chunk_size=50)
    return folders


@pytest.mark.slow
def test_the_loader_does_what_the_page_says(folders):
    check(NAME, lambda num_rows: loader(folders[num_rows]), number)


@pytest.mark.slow
def test_two_ranks_do_what_the_page_says(folders):
    check_ranks(NAME, loader, number, folders[WHOLE])


@pytest.mark.slow
def test_a_state_of_an_epochs_end_is_told_from_workers_that_repeat_rows(folders):
    data = Measuring(lambda num_rows: loader(folders[num_rows]), number)
    dataset = data.dataset()
    for _ in dataset:
        last = dataset.state_dict()
    resumed = data.dataset()
    resumed.load_state_dict(last)
    with pytest.raises(ValueError, match="StreamingDataLoader began another pass"):
        list(resumed)
