"""A part of a published set: ids, and the embeddings of both sides, a run of rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown
from jest_loader.protocols import CountedSource, EpochSource, SeekableSource
from jest_loader.reference_cache.published.id_table import ids_of, num_rows_of
from jest_loader.reference_cache.published.stored import StoredArray, as_float32, is_floating

Sides = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The embeddings of images and texts, float32 [n, width] each."""


class Part(Protocol):
    """Consecutive rows of a published set."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Width of the embeddings of both sides."""
        ...

    def ids(self, column: str) -> Iterator[Any]:
        """The ids of all rows, a batch at a time."""
        ...

    def read(self, start: int, stop: int) -> Sides:
        """The rows from ``start`` up to ``stop``."""
        ...

    def close(self) -> None:
        """Let go of files until the next call."""
        ...


@dataclass(frozen=True)
class FilePart:
    """Two arrays of a file each, or of one, and a parquet file of ids.

    Args:
        image: Of the images.
        text: Of the texts.
        table: The parquet file; None if there is none.
        name: Where it is, for messages.

    Raises:
        ValueError: if these do not have the same rows, or the sides not one width.
    """

    image: StoredArray
    text: StoredArray
    table: Path | None
    name: str

    def __post_init__(self) -> None:
        shapes = [(side.num_rows, side.width) for side in (self.image, self.text)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "embeddings of images and texts must have the same rows and width, but those of "
                f"{self.name} have {shapes[0]} and {shapes[1]}; take both from one release"
            )
        if self.table is not None and (found := num_rows_of(self.table)) != self.num_rows:
            raise ValueError(
                f"embeddings must have a row for each id, but {self.name} has {self.num_rows} rows "
                f"and {self.table} has {found}; take both from one release"
            )

    @property
    def num_rows(self) -> int:
        """See ``Part``."""
        return self.image.num_rows

    @property
    def width(self) -> int:
        """See ``Part``."""
        return self.image.width

    def ids(self, column: str) -> Iterator[Any]:
        """See ``Part``."""
        if self.table is None:
            raise ValueError(
                f"embeddings that are joined by id need a parquet file of ids beside them, but "
                f"{self.name} has none; fetch it, or join by order"
            )
        return ids_of(self.table, column)

    def read(self, start: int, stop: int) -> Sides:
        """See ``Part``."""
        return self.image.read(start, stop), self.text.read(start, stop)

    def close(self) -> None:
        """See ``Part``."""
        self.image.close()
        self.text.close()


class SourcePart:
    """All rows of a source whose batches have columns of embeddings, such as MDS or Zarr.

    Args:
        source: Not shuffled, with the last batch, and able to start anywhere.
        image: Its column of the images' embeddings, [B, width].
        text: Its column of the texts' embeddings.

    Raises:
        ValueError: if it cannot start anywhere, or its columns hold something else.
    """

    name = "the source of embeddings"

    def __init__(self, source: Any, image: str, text: str) -> None:
        if not isinstance(source, SeekableSource) or not isinstance(source, CountedSource):
            raise ValueError(
                "a source of embeddings must have seek and num_examples, as MdsSource and "
                f"ZarrSource have, got {type(source).__name__}"
            )
        self._source, self._columns = source, (image, text)
        self.num_rows, self._size = source.num_examples, source.batch_size
        self.width = self.read(0, 1)[0].shape[1]

    def ids(self, column: str) -> Iterator[Any]:
        """See ``Part``."""
        for batch in self._from(0):
            yield _column(batch, column)

    def read(self, start: int, stop: int) -> Sides:
        """See ``Part``."""
        first = start // self._size
        found: list[Sides] = []
        for batch in self._from(first):
            image, text = (_floats(_column(batch, name), name) for name in self._columns)
            if image.shape != text.shape:
                raise ValueError(
                    "embeddings of images and texts must have one shape, got "
                    f"{image.shape} and {text.shape}; name other columns"
                )
            found.append((image, text))
            if (first + len(found)) * self._size >= stop:
                break
        within = slice(start - first * self._size, stop - first * self._size)
        image, text = (np.concatenate(side)[within] for side in zip(*found, strict=True))
        if len(image) != stop - start:
            raise ValueError(
                f"a source of embeddings must yield all {self.num_rows} rows in their order, but "
                f"ended before row {stop}; use shuffle=False, drop_last=False"
            )
        return image, text

    def close(self) -> None:
        """See ``Part``."""

    def _from(self, batch: int) -> Iterator[Any]:
        if isinstance(self._source, EpochSource):
            self._source.set_epoch(0)
        self._source.seek(batch)
        return iter(self._source)


def _column(batch: Any, name: str) -> Any:
    if name not in batch:
        raise ValueError(
            f"a source of embeddings must have the column {name!r}, but has "
            f"{shown(', '.join(sorted(batch)))}; name another"
        )
    return batch[name]


def _floats(column: Any, name: str) -> NDArray[np.float32]:
    found = np.asarray(column)
    if found.ndim != 2 or not is_floating(found.dtype):
        raise ValueError(
            f"embeddings must be [rows, width] of fp16, fp32, fp64, or bf16 as uint16, but column "
            f"{name!r} is {found.dtype} of {found.shape}; name another"
        )
    return as_float32(found)
