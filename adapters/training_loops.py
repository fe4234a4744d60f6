"""What adapters to training loops share."""

from collections.abc import Iterable, Iterator, Mapping

from torch.utils.data import DataLoader

from jest_loader.loader.dataset import JestDataset


def numbers_to_log(dataset: JestDataset) -> dict[str, float]:
    """Of ``dataset.stats``, by names such as ``jest/score``; waits for the device."""
    stats = dataset.stats
    numbers = {} if stats is None else stats.numbers()
    return {f"jest/{name}": float(value) for name, value in numbers.items()}


def length_of(dataset: JestDataset) -> int | None:
    """Sub-batches of its epoch; None if its source has no length."""
    try:
        return len(dataset)
    except TypeError:
        return None


def check_evaluated(loaders: object) -> None:
    """Raise ``ValueError`` if there is a ``JestDataset`` among what is to be evaluated on."""
    if any(True for _ in datasets_in(loaders)):
        raise ValueError(
            "a JestDataset must not be evaluated on, since it leaves most rows out; pass its source"
        )


def datasets_in(loaders: object) -> Iterator[JestDataset]:
    """Each ``JestDataset`` in loaders, or in a collection of them of any shape."""
    if isinstance(loaders, JestDataset):
        yield loaders
    elif isinstance(loaders, DataLoader):
        yield from datasets_in(loaders.dataset)
    elif isinstance(loaders, Mapping):
        yield from _all(loaders.values())
    elif isinstance(loaders, list | tuple):
        yield from _all(loaders)


def _all(loaders: Iterable[object]) -> Iterator[JestDataset]:
    for one in loaders:
        yield from datasets_in(one)
