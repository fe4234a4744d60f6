"""Loaders that select nothing, as people use them: PyTorch's and MosaicML's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from bench.emitting.data import SIZE
from jest_loader.adapters.images import DecodeImages

WORKERS = 2


def one_row() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that decodes a row, as a Dataset's ``__getitem__`` does."""
    decode = DecodeImages("jpg", SIZE, num_threads=1)

    def decoded(row: dict[str, Any]) -> dict[str, Any]:
        return {"caption": row["caption"], "jpg": decode({"jpg": [row["jpg"]]})["jpg"][0]}

    return decoded


class Rows(Dataset[dict[str, Any]]):
    """The rows of shards by number, as a ``Dataset`` that people write themselves."""

    def __init__(self, path: Path) -> None:
        from streaming import StreamingDataset

        self._rows = StreamingDataset(local=str(path), batch_size=1)
        self._decoded = one_row()

    def __len__(self) -> int:
        return int(self._rows.num_samples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._decoded(self._rows[row])


def map_loader(path: Path, size: int) -> DataLoader[Any]:
    """A torch DataLoader over rows by number."""
    return DataLoader(Rows(path), size, shuffle=True, drop_last=True, num_workers=WORKERS)


def decoding_loader(path: Path, size: int) -> DataLoader[Any]:
    """MosaicML's own, over rows that its workers decode."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Decoded(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return one_row()(super().__getitem__(at))

    clean_stale_shared_memory()
    dataset = Decoded(local=str(path), batch_size=size, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=size, drop_last=True, num_workers=WORKERS)


def streaming_loader(path: Path, size: int) -> DataLoader[Any]:
    """MosaicML's own, over rows that stay encoded."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(path), batch_size=size, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=size, drop_last=True, collate_fn=collate)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns of rows; images as they are read."""
    return {name: [row[name] for row in rows] for name in rows[0]}
