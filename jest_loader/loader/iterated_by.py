"""Who iterates a dataset: loaders that would train on something else than its sub-batches."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import get_worker_info

# What a loader does with a dataset, only its own frames know. They are told by name, since nothing
# of Accelerate is imported; transformers has a class of the second name too.
_FETCHER = "_IterableDatasetFetcher.__init__"
_ACCELERATE = {
    "DataLoaderDispatcher.__iter__": "iterates it on rank 0 for all",
    "IterableDatasetShard.__iter__": "leaves out all but some of each rank's",
}


def check_iterated_by(dataset: object, num_ranks: Callable[[], int]) -> None:
    """Look at the callers of a dataset's ``__iter__``, which calls this.

    Args:
        dataset: The dataset.
        num_ranks: How many ranks select together.

    Raises:
        ValueError: in a DataLoader's worker; if a DataLoader would batch sub-batches again; or if
            Accelerate would iterate the dataset on one of several ranks, or deal sub-batches out.
    """
    if get_worker_info() is not None:
        raise ValueError(
            "JestDataset must run in the training process, where the models are, but was iterated "
            "in a DataLoader worker; iterate it directly, or use DataLoader(dataset, "
            "batch_size=None, num_workers=0)"
        )
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_qualname
        if name == _FETCHER and _batches(dataset, frame.f_locals):
            raise ValueError(
                "a JestDataset yields batches, which a DataLoader must not batch again; use "
                "DataLoader(dataset, batch_size=None), or iterate the dataset itself"
            )
        if (does := _ACCELERATE.get(name)) is not None and num_ranks() > 1:
            raise ValueError(
                "each rank must iterate its own JestDataset and train on all that it yields, but "
                f"Accelerate's {name.removesuffix('.__iter__')} {does}; prepare the model and the "
                "optimizer only, and iterate the dataset"
            )
        frame = frame.f_back


def _batches(dataset: object, fetcher: Mapping[str, Any]) -> bool:
    """Whether a fetcher batches what this dataset yields, and not another that iterates it."""
    return fetcher["dataset"] is dataset and bool(fetcher["auto_collation"])
