"""A source that ends before its length says so is an error, also where a worker died."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tests.helpers import numbered_batches
from tests.loader.builders import dataset


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_source_that_ends_early_is_an_error(prefetch):
    class Short:
        batch_size = 4

        def __len__(self):
            return 10

        def __iter__(self):
            yield from numbered_batches(7, 4)

    with pytest.raises(
        ValueError, match=r"yield the 37 examples that its length promises, but ended after 28"
    ):
        list(dataset(Short(), prefetch=prefetch))


class Sized(IterableDataset):
    """Rows of which each worker has its share, so that each ends with a short batch."""

    def __init__(self, num_rows, lost=0):
        self.num_rows, self.lost = num_rows, lost

    def __len__(self):
        return self.num_rows

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        mine = range(self.num_rows)[info.id :: info.num_workers] if info else range(self.num_rows)
        for row in list(mine)[: len(mine) - self.lost]:
            yield {"number": torch.tensor(row)}


def test_workers_that_drop_their_last_batches_are_no_early_end():
    loader = DataLoader(Sized(46), batch_size=4, num_workers=2, drop_last=True)
    assert len(list(dataset(loader))) == 5


def test_workers_that_lose_rows_are_noticed():
    loader = DataLoader(Sized(46, lost=12), batch_size=4, num_workers=2, drop_last=True)
    with pytest.raises(ValueError, match="that its length promises, but ended after 16"):
        list(dataset(loader))


class Dies(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, row):
        if row == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": torch.tensor(row)}


def read_from_a_worker_that_dies():
    list(dataset(DataLoader(Dies(), batch_size=4, num_workers=1)))


def test_a_worker_that_is_killed_is_an_error():
    """In a process of its own: there torch raises at any moment until its loader is gone."""
    program = f"import {__name__} as test; test.read_from_a_worker_that_dies()"
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    # Whichever torch meets first: that the worker is gone, or that it does not answer.
    assert re.search(
        r"RuntimeError: DataLoader worker .* (killed by|exited)|Connection\w+Error", ended.stderr
    )
