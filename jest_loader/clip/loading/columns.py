"""From shards to the columns that the towers take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from jest_loader.adapters.blocks import SourceKeywords
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.parquet import ParquetSource
from jest_loader.adapters.tar import IMAGE, TarSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.batch import Batch
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.models.inputs import CONTENT, ModelInputs
from jest_loader.ragged import RaggedBytes
from jest_loader.seen import SeenFunction, SeenRows, content_keys

ShardSource = MdsSource | ZarrSource | TarSource | ParquetSource


def open_shards(
    path: Path, columns: Sequence[str] = (), **options: Unpack[SourceKeywords]
) -> ShardSource:
    """A source over a folder of MDS shards, a Zarr group, WebDataset tars, or Parquet files.

    Args:
        path: The folder; of tars and Parquet files also a pattern, as
            ``shards/{00000..01023}.tar`` and ``data/train-*.parquet``. In a folder that has both,
            the Parquet files are img2dataset's, of what is in the tars.
        columns: Columns that are wanted. Of tars they are what ``TarSource`` calls the members, as
            ``jpg``, ``txt`` or ``json:uid``, where they are not ``image`` and ``caption``. Of
            Parquet files no others are read.
        **options: How rows are put into batches.

    Raises:
        ValueError: if ``path`` is none of these.
    """
    if (path / "index.json").is_file():
        return MdsSource(path, **options)
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        return ZarrSource(path, **options)
    if ".tar" in path.name or (path.is_dir() and any(path.glob("*.tar*"))):
        return TarSource(path, columns=_tar_columns(columns), **options)
    if path.name.endswith(".parquet") or (path.is_dir() and any(path.glob("*.parquet"))):
        return ParquetSource(path, columns=[name for name in columns if name] or None, **options)
    raise ValueError(
        f"{path} must be a folder of MDS shards (with index.json), a Zarr group (with zarr.json), "
        "WebDataset tars or Parquet files (a folder of them, or a pattern as "
        "shards/{00000..01023}.tar or data/train-*.parquet); "
        "jest-loader pack makes shards from images and captions"
    )


def columns_of(data: DataConfig) -> tuple[str, ...]:
    """The columns that a run reads."""
    return (data.image_column, data.caption_column, *data.watch_columns)


def _tar_columns(columns: Sequence[str]) -> dict[str, str] | None:
    """What of tars' members is wanted; None for the usual."""
    if set(columns) <= {"image", "caption"}:
        return None
    usual = {"image": IMAGE, "caption": "txt"}
    return {name: usual.get(name, name) for name in columns if name}


class Tokenize:
    """Turns a batch of stored columns into ``image``, ``text``, ``caption`` and ``sample_id``.

    Images that are encoded stay so: ``Decode`` makes pixels of them.

    Args:
        data: Names of the columns.
        model: The image and token sizes that the towers take.

    Raises:
        ValueError: when called, if a column is missing or of the wrong kind.
    """

    def __init__(self, data: DataConfig, model: ModelInputs) -> None:
        self._data = data
        self._model = model
        self._tokenize = model.tokenizer()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns: image, encoded or uint8 [B, C, H, W]; text, int64 [B, context]; and two more."""
        data = self._data
        for column in (data.image_column, data.caption_column, *data.watch_columns):
            if column not in batch:
                raise ValueError(
                    f"the data has no column {column!r}, it has {', '.join(sorted(batch))}; "
                    "set data.image_column, data.caption_column and data.watch_columns"
                )
        captions = batch[data.caption_column]
        if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
            raise ValueError(
                f"captions must be text, but column {data.caption_column!r} is not; "
                "set data.caption_column"
            )
        return {
            "image": self._images(batch[data.image_column]),
            "text": self._tokenize(captions),
            "caption": captions,
            "sample_id": batch["sample_id"],
            **{column: batch[column] for column in data.watch_columns},
        }

    def _images(self, column: Any) -> Any:
        if isinstance(column, np.ndarray):
            pixels = torch.from_numpy(column)
            image = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
            expected = (self._model.channels, self._model.image_size, self._model.image_size)
            if tuple(image.shape[1:]) != expected or image.dtype != torch.uint8:
                raise ValueError(
                    "images must be uint8 of [channels, height, width] "
                    f"{expected} to suit the model, got {image.dtype} of "
                    f"{tuple(image.shape[1:])}; set model.image_size and model.channels, or pack "
                    "encoded images"
                )
            return image
        if isinstance(column, RaggedBytes) or all(isinstance(value, bytes) for value in column):
            return column
        raise ValueError(
            "images must be encoded bytes or arrays of pixels, but column "
            f"{self._data.image_column!r} is text; set data.image_column"
        )


class Decode:
    """Makes pixels of the encoded images of a tokenized batch; stored pixels it leaves alone.

    It adds a key of each image as it is stored, which tells it from others, as column ``content``.

    Args:
        model: The image size and channels that the towers take.

    Raises:
        SkipRowsError: when called, for images that cannot be decoded, by row.
        ValueError: when called, if images are encoded and the towers take neither grey nor colour.
    """

    def __init__(self, model: ModelInputs) -> None:
        self._channels = model.channels
        self._decode = DecodeImages(
            "image",
            model.image_size,
            mode="L" if model.channels == 1 else "RGB",
            transform=model.transform(),
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with image as uint8 [B, C, H, W], and content, int64 [B]."""
        image = batch["image"]
        if isinstance(image, Tensor):
            return {**batch, CONTENT: _keys(image.movedim(1, -1))}
        if self._channels not in (1, 3):
            raise ValueError(
                f"model.channels must be 1 or 3 for encoded images, got {self._channels}"
            )
        return self._decode({**batch, CONTENT: _keys(image)})


def seen_in_shards(seen: SeenRows | None, image_column: str) -> SeenFunction | None:
    """What says of a batch of stored columns which images are among those seen; None of None."""
    if seen is None:
        return None
    return lambda batch: seen.marks(content_keys(batch[image_column]))


def _keys(images: Any) -> Tensor:
    return torch.from_numpy(content_keys(images))


def tokenize_and_decode(data: DataConfig, model: ModelInputs) -> Callable[[Batch], Batch]:
    """A function that makes the columns that the towers take of a batch of stored ones.

    It raises ``SkipRowsError`` for rows whose images cannot be decoded.
    """
    tokenize, decode = Tokenize(data, model), Decode(model)
    return lambda batch: decode(tokenize(batch))
