"""Who iterates a dataset: loaders that would train on something else than its sub-batches."""

import inspect
from collections.abc import Callable
from types import FrameType

from torch.utils.data import get_worker_info

# What a loader does with a dataset, only its own frames know. They are told by name, since nothing
# of Accelerate is imported; transformers has a class of the second name too.
_FETCHER = "_IterableDatasetFetcher.__init__"
_ACCELERATE = {
    "DataLoaderDispatcher.__iter__": "iterates it on rank 0 for all",
    "IterableDatasetShard.__iter__": "leaves out all but some of each rank's",
}


def check_iterated_by(num_ranks: Callable[[], int]) -> None:
    """Look at the callers of a dataset's ``__iter__``, which calls this.

    Args:
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
    frame = _caller_of(_caller_of(inspect.currentframe()))
    if frame is not None and _name(frame) == _FETCHER and frame.f_locals["auto_collation"]:
        raise ValueError(
            "a JestDataset yields batches, which a DataLoader must not batch again; use "
            "DataLoader(dataset, batch_size=None), or iterate the dataset itself"
        )
    while frame is not None:
        if (does := _ACCELERATE.get(_name(frame))) is not None and num_ranks() > 1:
            loader = _name(frame).removesuffix(".__iter__")
            raise ValueError(
                "each rank must iterate its own JestDataset and train on all that it yields, but "
                f"Accelerate's {loader} {does}; prepare the model and the optimizer only, and "
                "iterate the dataset"
            )
        frame = frame.f_back


def _caller_of(frame: FrameType | None) -> FrameType | None:
    return None if frame is None else frame.f_back


def _name(frame: FrameType) -> str:
    return frame.f_code.co_qualname
