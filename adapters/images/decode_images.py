"""Decodes a column of images into one tensor, in threads, as the ``materialize`` of a loader.

Threads change neither the order of rows nor a pixel. All decoders give the same pixels, which
PyTorch resizes; they differ only in which damaged JPEGs they notice.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from jest_loader.adapters.images.decoders import (
    MAX_PIXELS,
    DecodeError,
    Mode,
    Pixels,
    choose_decoder,
    decode,
)
from jest_loader.adapters.images.squares import Squares
from jest_loader.checks import whole
from jest_loader.ragged import RaggedBytes
from jest_loader.skipped import SkipRowsError

# So many that handing tasks out costs 1 %, so few that threads end at nearly the same time.
_MAX_ROWS_A_TASK = 8


class DecodeImages:
    """Turns a batch's column of encoded images into a tensor.

    For ``JestDataset(..., materialize=DecodeImages("jpg"))``, and for scorers that look at images
    at a small size. Each image is turned upright and laid on white, and its centre square is
    resized to ``size`` by antialiased bicubic interpolation. With s the shorter side, the square
    starts at pixel ((width - s) // 2, (height - s) // 2) of the image's own resolution.

    The first call starts threads, also in a forked process or after unpickling. They end with
    ``close``, the object or the process.

    Args:
        column: The column of encoded images: JPEGs, PNGs or WebPs as ``RaggedBytes``, or as a list
            of bytes, bytearray or memoryview. Of an animation the first frame is decoded.
        size: Height and width of the result in pixels.
        mode: ``"RGB"`` or ``"L"`` (grey; of a JPEG the luma that it stores).
        out_column: The name of the column for the tensor; None to replace the encoded column.
        transform: Makes a tensor of an RGB (or L) ``PIL.Image``, in place of cutting and resizing;
            the tensors are stacked. It runs in several threads at once.
        fast_scaling: Whether to decode JPEGs at 1/2, 1/4 or 1/8 of their size if the shorter side
            stays at least ``size``. This is faster and changes pixels a little.
        decoder: ``"simplejpeg"``, ``"pillow"``, or ``"auto"`` for the first that is installed.
        num_threads: Threads that decode; None for one per core, 1 for the caller's own.
        max_pixels: Pixels of the largest image that is decoded; of larger ones no pixel is. Above
            twice ``PIL.Image.MAX_IMAGE_PIXELS`` Pillow refuses an image whatever this is.

    Raises:
        ValueError: if an argument is out of range or the decoder is not installed. When called: if
            the batch is no dict with such a column, or the transform's tensors differ in shape.
        SkipRowsError: when called, if images cannot be decoded; it names all such rows.
    """

    def __init__(  # noqa: PLR0913
        self,
        column: str,
        size: int = 224,
        *,
        mode: Mode = "RGB",
        out_column: str | None = None,
        transform: "Callable[[Any], Tensor] | None" = None,
        fast_scaling: bool = False,
        decoder: Literal["auto", "simplejpeg", "pillow"] = "auto",
        num_threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if transform is not None and not callable(transform):
            raise ValueError(
                f"transform must be a function of a PIL.Image or None, got {transform!r}"
            )
        self.column = column
        self.size = whole("size", size, 1)
        self.mode: Mode = mode
        self.out_column = column if out_column is None else out_column
        self.transform = transform
        self.fast_scaling = fast_scaling
        self.decoder = choose_decoder(decoder)
        self.num_threads = _cores() if num_threads is None else whole("num_threads", num_threads, 1)
        self.max_pixels = whole("max_pixels", max_pixels, 1)
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A new dict: the batch with the images as a tensor, uint8 [B, C, size, size].

        With a transform the tensor is [B, ...] of the transform's shape and dtype.
        """
        encoded = self._encoded(batch)
        images = self._squares(encoded) if self.transform is None else self._transformed(encoded)
        return {**batch, self.out_column: images}

    def close(self) -> None:
        """End the threads; another call would start new ones."""
        if self._pool is not None and self._pool_process == os.getpid():
            self._pool.shutdown()
        self._pool = None

    def __enter__(self) -> "DecodeImages":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def _encoded(self, batch: Mapping[str, Any]) -> Any:
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"a batch must be a dict of columns, got {type(batch).__name__}; decode with a "
                "function that makes one"
            )
        if self.column not in batch:
            raise ValueError(
                f"the batch has no column {self.column!r}, it has {', '.join(map(repr, batch))}"
            )
        if self.out_column != self.column and self.out_column in batch:
            raise ValueError(
                f"out_column must be a new name, but the batch has a column {self.out_column!r}"
            )
        encoded: Any = batch[self.column]
        if isinstance(encoded, RaggedBytes):
            return encoded.views()
        is_objects = isinstance(encoded, np.ndarray) and encoded.dtype == object
        if not isinstance(encoded, list | tuple) and not is_objects:
            raise ValueError(
                f"column {self.column!r} must be a list of encoded images, "
                f"got {type(encoded).__name__}; pixels need no decoding"
            )
        return encoded

    def _decode(self, encoded: object) -> Pixels:
        scale_to = self.size if self.fast_scaling else None
        return decode(
            encoded, self.mode, self.decoder, scale_to=scale_to, max_pixels=self.max_pixels
        )

    def _squares(self, encoded: Sequence[Any]) -> Tensor:
        # New memory for each batch, since the last batch may be in use. NumPy asks for huge pages;
        # page faults of small ones took a tenth of the time.
        rows = np.empty((len(encoded), len(self.mode), self.size, self.size), np.uint8)

        def fill(some: range) -> dict[int, str]:
            squares = Squares(rows)
            reasons = _fill(some, lambda row: squares.add(row, self._decode(encoded[row])))
            squares.flush()
            return reasons

        self._for_all_rows(fill, len(encoded))
        return torch.from_numpy(rows)

    def _transformed(self, encoded: Sequence[Any]) -> Tensor:
        from PIL import Image

        assert self.transform is not None
        transform, grey = self.transform, self.mode == "L"
        tensors = [torch.empty(0)] * len(encoded)

        def fill(row: int) -> None:
            pixels = self._decode(encoded[row])
            # A copy, since the transform may keep the image and the pixels lie in scratch memory.
            tensors[row] = transform(Image.fromarray((pixels[..., 0] if grey else pixels).copy()))

        self._for_all_rows(lambda some: _fill(some, fill), len(encoded))
        _check_alike(tensors)
        return torch.stack(tensors) if tensors else torch.empty(0)

    def _for_all_rows(self, fill: Callable[[range], dict[int, str]], num_rows: int) -> None:
        """Call ``fill`` for ranges of rows, in threads.

        Raises:
            SkipRowsError: if it returned reasons to skip rows; with all of them.
        """
        step = max(1, min(_MAX_ROWS_A_TASK, num_rows // (4 * self.num_threads)))
        some = [range(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
        each = map if self.num_threads == 1 else self._threads().map
        reasons = {row: reason for found in each(fill, some) for row, reason in found.items()}
        if reasons:
            raise SkipRowsError(reasons)

    def _threads(self) -> ThreadPoolExecutor:
        # A fork copies the pool without its threads, for which it would wait without end.
        if self._pool is None or self._pool_process != os.getpid():
            self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode-images")
            self._pool_process = os.getpid()
        return self._pool


def _fill(rows: range, fill: Callable[[int], None]) -> dict[int, str]:
    """Call ``fill`` for each row, and return the reasons to skip rows that cannot be decoded."""
    reasons = {}
    for row in rows:
        try:
            fill(row)
        except DecodeError as error:
            reasons[row] = str(error)
    return reasons


def _check_alike(tensors: Sequence[object]) -> None:
    for row, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"transform must return a tensor, got {type(tensor).__name__} for row {row}"
            )
        first = tensors[0]
        assert isinstance(first, Tensor)
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise ValueError(
                "transform must return tensors of one shape and dtype, but row 0 gave "
                f"{first.dtype} of {tuple(first.shape)} and row {row} {tensor.dtype} of "
                f"{tuple(tensor.shape)}; let it resize and crop to one size"
            )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
