"""The data that the runs of ``clip_runs`` train on."""

from pathlib import Path

import pytest

from jest_loader.pack import write_mds, write_zarr
from tests.clip_runs import COLUMNS, rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mds(folder / "train", COLUMNS, rows(96))
    write_zarr(folder / "test", COLUMNS, rows(16))
    return folder


def pytest_itemcollected(item: pytest.Item) -> None:
    # Models this small and learning rates this high bring the scale below what is usual.
    item.add_marker(pytest.mark.filterwarnings("ignore:the .*'s logit_scale is:UserWarning"))
