"""A loader of numbered rows: what most tests of JestDataset start from."""

import torch
from torch.utils.data import Dataset

from jest_loader import (
    ExampleScores,
    TopKSelector,
)
from tests.helpers import jest_dataset


class ByNumber:
    """Scores a row by its number."""

    def score(self, super_batch):
        return ExampleScores(super_batch["number"].float() / 10)


class Rows(Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict:
        return {"number": torch.tensor(row), "caption": f"row {row}"}


def dataset(source, selector=None, **options):
    options = {"super_batch_size": 8, "sub_batch_size": 4, **options}
    return jest_dataset(source, ByNumber(), selector or TopKSelector(), **options)


def numbers(batches) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]
