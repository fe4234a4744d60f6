"""Embeddings that somebody else computed, of many parts, as one table."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.published.layouts import parts_at
from jest_loader.reference_cache.published.parts import Part, Sides, SourcePart

_GAP_ROWS = 64  # Rows that nobody wants are read if there are no more of them in between.


class PublishedEmbeddings:
    """Embeddings of images and texts that somebody else computed, with the id of each pair.

    Make one with ``open`` or ``of_source``. Nothing is unpickled, headers are checked first, and
    rows are read a run at a time: nothing is mapped into memory.

    Args:
        parts: Consecutive rows each.
        id_column: The column of ids; None if there are none.

    Raises:
        ValueError: if widths differ between parts.
    """

    def __init__(self, parts: Sequence[Part], id_column: str | None) -> None:
        self.id_column, self._parts = id_column, list(parts)
        self._starts = np.cumsum([0, *(part.num_rows for part in self._parts)])
        first = self._parts[0]
        for part in self._parts:
            if part.width != first.width:
                raise ValueError(
                    f"all parts must have embeddings of one width, but {first.name} has "
                    f"{first.width} and {part.name} has {part.width}; take them from one release"
                )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        id_column: str | None = "uid",
        image: str = "l14_img",
        text: str = "l14_txt",
    ) -> "PublishedEmbeddings":
        """Those of a folder of clip-retrieval, or of .npz files with parquet files beside them.

        Args:
            path: The folder that holds ``img_emb_0.npy``, ``text_emb_0.npy`` and
                ``metadata_0.parquet``, or the folders that hold those; or a folder of ``.npz``
                files, or one such file. Parts are ordered by number, or by name.
            id_column: The parquet files' column of ids, text or whole numbers; None for rows that
                are known by their number alone.
            image: Of .npz files, the array of the images' embeddings.
            text: The array of the texts' embeddings.

        Raises:
            ValueError: if there are none, or a file is missing, damaged or does not fit the others.
            ModuleNotFoundError: if there are parquet files and pyarrow is not installed.
        """
        parts: list[Part] = []
        parts.extend(parts_at(Path(path), image, text))
        return cls(parts, id_column)

    @classmethod
    def of_source(
        cls, source: Any, *, id_column: str | None, image: str, text: str
    ) -> "PublishedEmbeddings":
        """Those in columns of a source of batches, such as ``MdsSource`` or ``ZarrSource``.

        Args:
            source: Made with ``shuffle=False, drop_last=False``.
            id_column: Its column of ids, text or whole numbers; None as for ``open``.
            image: Its column of the images' embeddings, [B, width].
            text: Its column of the texts' embeddings.

        Raises:
            ValueError: if it cannot start anywhere, or its columns hold something else.
        """
        return cls([SourcePart(source, image, text)], id_column)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self._parts[0].width

    def ids(self) -> Iterator[Any]:
        """The ids of all rows in their order, a batch at a time; their numbers if there are none.

        Raises:
            ValueError: if a table cannot be read, or has no such column.
        """
        if self.id_column is None:
            yield np.arange(len(self))
            return
        for part in self._parts:
            yield from part.ids(self.id_column)

    def take(self, rows: Int64Array) -> Sides:
        """The embeddings of ``rows``, int64 [n] ascending; rows may be repeated.

        Raises:
            ValueError: if they cannot be read.
        """
        image, text = np.empty((2, len(rows), self.width), dtype=np.float32)
        of_part = np.searchsorted(self._starts, rows, side="right") - 1
        cuts = (np.diff(rows) > _GAP_ROWS) | (np.diff(of_part) > 0)
        edges = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(rows)]
        for first, end in pairwise(edges):
            if first == end:
                continue
            number = int(of_part[first])
            part, within = self._parts[number], rows[first:end] - self._starts[number]
            start = int(within[0])
            run = part.read(start, int(within[-1]) + 1)
            image[first:end], text[first:end] = (side[within - start] for side in run)
            if end < len(rows) and of_part[end] != number:
                part.close()
        return image, text

    def close(self) -> None:
        """Let go of all files; they are opened again when they are needed."""
        for part in self._parts:
            part.close()

    def fingerprint(self) -> str:
        """A digest of the parts' names, rows and width, and of some of the embeddings."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts:
            digest.update(f"{Path(part.name).name} {part.num_rows} {part.width}\n".encode())
        some = np.arange(min(len(self), 64)) * len(self) // min(len(self), 64)
        for side in self.take(some):
            digest.update(side.astype("<f4").tobytes())
        return digest.hexdigest()
