"""From shards to the columns that the towers take."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.adapters.decoders import flat
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.batch import Batch
from jest_loader.clip.config import DataConfig
from jest_loader.clip.tokenizer import HashTokenizer
from jest_loader.clip.towers import ModelConfig
from jest_loader.ragged import RaggedBytes

ShardSource = MdsSource | ZarrSource


def open_shards(
    path: Path, *, batch_size: int, shuffle: bool, seed: int = 0, drop_last: bool = True
) -> ShardSource:
    """A source over a folder of MDS shards or a Zarr group.

    Raises:
        ValueError: if ``path`` is neither.
    """
    if (path / "index.json").is_file():
        return MdsSource(
            path, batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last
        )
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        return ZarrSource(
            path, batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last
        )
    raise ValueError(
        f"{path} must be a folder of MDS shards (with index.json) or a Zarr group (with "
        "zarr.json); jest-loader pack makes either from images and captions"
    )


class Prepare:
    """Turns a batch of stored columns into ``image``, ``text``, ``caption`` and ``sample_id``.

    Args:
        data: Names of the columns.
        model: The image and token sizes that the towers take.

    Raises:
        ValueError: when called, if a column is missing or an image cannot be used.
    """

    def __init__(self, data: DataConfig, model: ModelConfig) -> None:
        self._data = data
        self._model = model
        self._tokenize = HashTokenizer(model.vocab_size, model.context_length)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns: image, uint8 [B, C, H, W]; text, int64 [B, context]; caption; sample_id."""
        for column in (self._data.image_column, self._data.caption_column):
            if column not in batch:
                raise ValueError(
                    f"the data has no column {column!r}, it has {', '.join(sorted(batch))}; "
                    "set data.image_column and data.caption_column"
                )
        captions = batch[self._data.caption_column]
        if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
            raise ValueError(
                f"captions must be text, but column {self._data.caption_column!r} is not; "
                "set data.caption_column"
            )
        return {
            "image": self._images(batch[self._data.image_column]),
            "text": self._tokenize(captions),
            "caption": captions,
            "sample_id": batch["sample_id"],
        }

    def _images(self, column: Sequence[bytes] | np.ndarray[Any, Any]) -> Tensor:
        if isinstance(column, np.ndarray):
            stored = column
        elif isinstance(column, RaggedBytes) or all(isinstance(v, bytes) for v in column):
            stored = np.stack([*map(self._decode, column)])
        else:
            raise ValueError(
                "images must be encoded bytes or arrays of pixels, but column "
                f"{self._data.image_column!r} is text; set data.image_column"
            )
        pixels = torch.from_numpy(stored)
        image = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
        expected = (self._model.channels, self._model.image_size, self._model.image_size)
        if tuple(image.shape[1:]) != expected or image.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8 of [channels, height, width] {expected} to suit the model, "
                f"got {image.dtype} of {tuple(image.shape[1:])}; set model.image_size and "
                "model.channels"
            )
        return image

    def _decode(self, encoded: bytes) -> np.ndarray[Any, Any]:
        """The image with its shorter side resized to the model's, cut to the centre square."""
        from PIL import Image, ImageOps

        mode = "L" if self._model.channels == 1 else "RGB"
        size = (self._model.image_size, self._model.image_size)
        with Image.open(io.BytesIO(encoded)) as opened:
            upright = ImageOps.exif_transpose(opened)
            image = ImageOps.fit(flat(upright).convert(mode), size, Image.Resampling.BICUBIC)
        return np.asarray(image)


class PreparedSource:
    """A source whose batches pass through a function; its state is the inner source's.

    Args:
        source: Shards.
        prepare: Called on each batch.
    """

    def __init__(self, source: ShardSource, prepare: Prepare) -> None:
        self._source = source
        self._prepare = prepare
        self.batch_size = source.batch_size

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._prepare, self._source)

    def set_epoch(self, epoch: int) -> None:
        """As the inner source's."""
        self._source.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As the inner source's."""
        return self._source.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the inner source's."""
        self._source.load_state_dict(state_dict)


def augment(image: Tensor, *, seed: int) -> Tensor:
    """``image`` [B, C, H, W] shifted as a whole by up to 1/16 of its size, edges padded with zeros.

    A function of ``seed``, so a resumed run sees the same images.
    """
    largest = image.shape[-1] // 16
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(-largest, largest + 1, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(image, (largest,) * 4)
    height, width = image.shape[-2:]
    return padded[..., largest + down :, largest + right :][..., :height, :width]
