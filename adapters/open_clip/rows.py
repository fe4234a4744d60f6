"""The trainer's training rows as a source of candidates, in the same order in each run."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from jest_loader.batch import Batch
from jest_loader.ops.noise import fold

_SEEDS = 2**31  # So that NumPy takes a seed and a rank added to it.


def seed_of(*parts: int) -> int:
    """A seed made of several numbers, such as the run's and the epoch's."""
    return fold(*parts) % _SEEDS


class TrainRows:
    """The trainer's own loader: batches of ``image`` and ``text``, as its pipeline makes them.

    A pass over it is an epoch, whose order depends on the seed and the epoch alone. There is
    nothing to save at the ends of epochs, which is where the trainer saves.

    Args:
        data: The trainer's ``DataInfo``.
        args: Its arguments.
        numbered: Whether rows carry their number in the csv as ``sample_id``.
    """

    def __init__(self, data: Any, args: Any, *, numbered: bool) -> None:
        self.batch_size: int = args.batch_size
        self.num_examples: int = data.dataloader.num_batches * args.batch_size
        self._data = data
        self._loader = data.dataloader
        if data.shared_epoch is not None:
            _seed_tars(data, args)
        if numbered:
            given = data.dataloader
            self._loader = DataLoader(
                _Numbered(given.dataset),
                batch_size=given.batch_size,
                sampler=given.sampler,
                num_workers=given.num_workers,
                pin_memory=given.pin_memory,
                drop_last=True,
            )

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of ``epoch``."""
        self._data.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the order depends on the epoch."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the order depends on the epoch."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield _columns(batch)


class CsvRows:
    """The rows of a csv once each, in order, to run the reference on.

    Args:
        rows: The trainer's ``CsvDataset``.
        args: Its arguments.
    """

    def __init__(self, rows: "Dataset[Any]", args: Any) -> None:
        self.batch_size: int = args.batch_size
        self._rows: Any = rows
        self._args = args
        self._first = 0

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    @property
    def num_examples(self) -> int:
        """Rows of the csv."""
        return len(self._rows)

    def fingerprint(self) -> str:
        """Of the csv's content; pictures may lie elsewhere, and are not read."""
        return csv_fingerprint(self._args)

    def seek(self, batch: int) -> None:
        """Let the next pass start at a batch."""
        self._first = batch

    def __iter__(self) -> Iterator[Batch]:
        first, self._first = self._first * self.batch_size, 0
        loader = DataLoader(
            _Numbered(self._rows),
            batch_size=self.batch_size,
            sampler=range(first, len(self._rows)),
            num_workers=self._args.workers,
        )
        return map(_columns, loader)


def csv_fingerprint(args: Any) -> str:
    """A digest of the csv that is trained on, and of which columns are read."""
    with Path(args.train_data).open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return f"csv {digest.hexdigest()}, {args.csv_img_key} and {args.csv_caption_key}"


class _Numbered(Dataset[Any]):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any, int]:
        image, text = self.rows[row]
        return image, text, row


def _columns(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list):
        raise ValueError(
            "open_clip_train's batches must be pairs of images and texts, as those of its releases "
            f"3, got {type(batch).__name__}; install open_clip_torch below 4"
        )
    names = ("image", "text", "sample_id")
    return dict(zip(names[: len(batch)], batch, strict=True))


def _seed_tars(data: Any, args: Any) -> None:
    """Let all that is random while tars are read depend on the seed, the epoch and the worker.

    Left alone, webdataset shuffles within a tar by the time of day, and workers that live on
    over epochs would go on with random numbers that a resumed run does not have.
    """
    (loader,) = data.dataloader.pipeline
    loader.generator = torch.Generator().manual_seed(seed_of(args.seed, args.rank))
    stages = loader.dataset.pipeline
    shared = random.Random()
    for stage in stages:
        if getattr(getattr(stage, "f", None), "__name__", "") == "_shuffle":
            stage.kw["rng"] = shared
    stages.insert(1, _Seeded(args.seed, args.rank, data.shared_epoch, shared))


class _Seeded:
    """A stage of webdataset's pipeline that seeds what draws random numbers after it.

    Args:
        seed: Of the run.
        rank: Of this process.
        epoch: The trainer's ``SharedEpoch``, which its workers read.
        shared: Shuffles the rows of a tar.
    """

    def __init__(self, seed: int, rank: int, epoch: Any, shared: random.Random) -> None:
        self.seed, self.rank, self.epoch, self.shared = seed, rank, epoch, shared

    def __call__(self, shards: Any) -> Any:
        info = get_worker_info()
        worker = 0 if info is None else 1 + info.id
        seed = seed_of(self.seed, self.rank, self.epoch.get_value(), worker)
        self.shared.seed(seed)
        if info is not None:  # In the trainer's own process its epoch has seeded all.
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 # What transforms of others draw from.
            torch.manual_seed(seed)
        return shards
