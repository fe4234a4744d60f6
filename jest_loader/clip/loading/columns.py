"""From shards to the columns that the towers take."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from jest_loader.adapters.blocks import SourceKeywords
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.batch import Batch, take
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.ragged import RaggedBytes
from jest_loader.skipped import SkipRowsError

ShardSource = MdsSource | ZarrSource


def open_shards(path: Path, **options: Unpack[SourceKeywords]) -> ShardSource:
    """A source over a folder of MDS shards or a Zarr group.

    Raises:
        ValueError: if ``path`` is neither.
    """
    if (path / "index.json").is_file():
        return MdsSource(path, **options)
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        return ZarrSource(path, **options)
    raise ValueError(
        f"{path} must be a folder of MDS shards (with index.json) or a Zarr group (with "
        "zarr.json); jest-loader pack makes either from images and captions"
    )


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
        """The batch with image as uint8 [B, C, H, W]."""
        if isinstance(batch["image"], Tensor):
            return batch
        if self._channels not in (1, 3):
            raise ValueError(
                f"model.channels must be 1 or 3 for encoded images, got {self._channels}"
            )
        return self._decode(batch)


class Prepare:
    """``Tokenize`` and then ``Decode``, for data of which no example can be left out.

    Args:
        data: Names of the columns.
        model: The image and token sizes that the towers take.

    Raises:
        SkipRowsError: when called, for images that cannot be decoded, by place in the data set.
        ValueError: when called, as ``Tokenize``.
    """

    def __init__(self, data: DataConfig, model: ModelInputs) -> None:
        self._tokenize = Tokenize(data, model)
        self._decode = Decode(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns: image, uint8 [B, C, H, W]; text, int64 [B, context]; caption; sample_id."""
        tokenized = self._tokenize(batch)
        try:
            return self._decode(tokenized)
        except SkipRowsError as error:
            ids = tokenized["sample_id"]
            reasons = {int(ids[row]): reason for row, reason in error.reasons.items()}
            raise SkipRowsError(reasons) from error


class PrepareCandidates:
    """``Prepare`` where bad images are left to others: ``unreadable`` says what is wrong with each.

    That column is empty text for an image that was decoded; the pixels of others are zeros. For
    data that are decoded before anyone can leave out a row: in the thread that reads ahead.

    Args:
        data: Names of the columns.
        model: The image and token sizes that the towers take.

    Raises:
        ValueError: when called, as ``Tokenize``.
    """

    def __init__(self, data: DataConfig, model: ModelInputs) -> None:
        self._tokenize = Tokenize(data, model)
        self._decode = Decode(model)
        self._row = (model.channels, model.image_size, model.image_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The columns of ``Prepare``, and ``unreadable``."""
        tokenized = self._tokenize(batch)
        reasons = [""] * len(tokenized["caption"])
        try:
            return {**self._decode(tokenized), "unreadable": reasons}
        except SkipRowsError as error:
            image = torch.zeros(len(reasons), *self._row, dtype=torch.uint8)
            good = torch.tensor([row for row in range(len(reasons)) if row not in error.reasons])
            if len(good):
                image[good] = self._decode(take(tokenized, good))["image"]
            for row, reason in error.reasons.items():
                reasons[row] = reason
            return {**tokenized, "image": image, "unreadable": reasons}


def refuse_unreadable(batch: dict[str, Any]) -> None:
    """Raise ``SkipRowsError`` for the rows that ``PrepareCandidates`` could not decode."""
    bad = {row: reason for row, reason in enumerate(batch.get("unreadable", [])) if reason}
    if bad:
        raise SkipRowsError(bad)


class PreparedSource:
    """A source whose batches pass through a function; its state is the inner source's.

    Args:
        source: Shards.
        prepare: Called on each batch.
    """

    def __init__(
        self, source: ShardSource, prepare: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
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

    def shard(self, rank: int, num_ranks: int) -> None:
        """As the inner source's."""
        self._source.shard(rank, num_ranks)

    def state_dict(self) -> dict[str, Any]:
        """As the inner source's."""
        return self._source.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the inner source's."""
        self._source.load_state_dict(state_dict)
