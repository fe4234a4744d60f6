"""A reference that was run once, ahead of time: reads embeddings, runs no model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.protocols import Embeddings

CACHE_VERSION = 1


class CachedReference:
    """Looks up the reference's embeddings of each candidate by its sample id.

    Args:
        image: Floating [N, D], row i belongs to sample id i; an array, a memory map or a tensor.
        text: Floating [N, D].
        scale: The reference's inverse temperature.
        bias: The reference's logit bias; None for a softmax model.
        id_column: The column of the batch that holds sample ids, int64 [B] in [0, N).
        device: Where the embeddings of a super-batch are put, the learner's device.

    Raises:
        ValueError: if ``image`` and ``text`` do not match.
    """

    def __init__(
        self,
        image: NDArray[Any] | Tensor,
        text: NDArray[Any] | Tensor,
        scale: float,
        bias: float | None = None,
        *,
        id_column: str = "sample_id",
        device: torch.device | str = "cpu",
    ) -> None:
        if len(image.shape) != 2 or tuple(image.shape) != tuple(text.shape):
            raise ValueError(
                "cached image and text embeddings must both have shape [samples, width], "
                f"got {tuple(image.shape)} and {tuple(text.shape)}"
            )
        self._image, self._text = np.asarray(image), np.asarray(text)
        self._scale, self._bias = scale, bias
        self._id_column = id_column
        self._device = torch.device(device)

    @classmethod
    def open(
        cls, path: str | Path, *, id_column: str = "sample_id", device: torch.device | str = "cpu"
    ) -> "CachedReference":
        """The cache that ``jest_loader.cache.build_cache`` wrote to ``path``, by memory map.

        Raises:
            ValueError: if there is no whole cache at ``path``.
        """
        folder = Path(path)
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise ValueError(
                f"no reference cache at {path}: {manifest.name} is missing; build it first"
            )
        try:
            settings = json.loads(manifest.read_text())
            image, text = (
                np.load(folder / f"{side}.npy", mmap_mode="r", allow_pickle=False)
                for side in ("image", "text")
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the reference cache at {path} is damaged ({error}); build it again"
            ) from error
        if settings.get("version") != CACHE_VERSION:
            raise ValueError(
                f"a reference cache must have version {CACHE_VERSION}, got "
                f"{settings.get('version')} at {path}; build it again"
            )
        return cls(
            image, text, settings["scale"], settings["bias"], id_column=id_column, device=device
        )

    def __len__(self) -> int:
        """Samples in the cache."""
        return len(self._image)

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch's samples, in the dtype they are stored in.

        Raises:
            ValueError: if the batch has no ids, or one is not in the cache.
        """
        ids = sample_ids(batch, self._id_column, len(self))
        return Embeddings(
            self._rows(self._image, ids), self._rows(self._text, ids), self._scale, self._bias
        )

    def _rows(self, stored: NDArray[Any], ids: NDArray[Any]) -> Tensor:
        return torch.from_numpy(stored[ids]).to(self._device, non_blocking=True)


def sample_ids(batch: Any, column: str, num_samples: int) -> NDArray[np.int64]:
    """The batch's column of sample ids, int64 [B] in [0, num_samples).

    Raises:
        ValueError: if there is no such column, or it holds anything else.
    """
    try:
        ids = np.asarray(batch[column])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"a reference cache finds samples by id, but the batch has no column {column!r}; "
            "add the sample's index to it, or pass id_column"
        ) from error
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise ValueError(
            f"sample ids must be one whole number per example, got {ids.dtype} of {ids.shape}"
        )
    bad = ids[(ids < 0) | (ids >= num_samples)]
    if len(bad) > 0:
        raise ValueError(
            f"sample ids must be in [0, {num_samples}), the samples of the reference cache, "
            f"got {int(bad[0])}; build it from this data set, with num_samples its size"
        )
    return ids
