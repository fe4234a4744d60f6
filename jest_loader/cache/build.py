"""Run a reference once over a data set and keep its embeddings."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jest_loader.ops.reference import detached
from jest_loader.output import new_folder
from jest_loader.protocols import Embedder, Embeddings, Source
from jest_loader.scorers.cached import CACHE_VERSION, sample_ids
from jest_loader.scorers.learnability import check_embedder


def build_cache(
    path: str | Path,
    source: Source,
    reference: Embedder,
    *,
    num_samples: int,
    id_column: str = "sample_id",
    overwrite: bool = False,
) -> None:
    """Write the reference's embeddings of every sample to the folder ``path``.

    The folder holds ``image.npy`` and ``text.npy``, float16 [num_samples, D] by sample id, and
    ``manifest.json`` with the scale and bias. It appears once it is whole.

    Args:
        path: The folder to make.
        source: Batches that hold each sample once, with its id.
        reference: Embeds them.
        num_samples: Samples in the data set; ids are in [0, num_samples).
        id_column: The column of sample ids, int64.
        overwrite: Whether to replace a cache.

    Raises:
        ValueError: if a sample is missing or out of range, an embedding is not finite, or ``path``
            is taken.
    """
    check_embedder("reference", reference)
    with new_folder(path, overwrite=overwrite, marks=("manifest.json",)) as folder:
        writer = _Writer(folder, num_samples)
        for batch in source:
            writer.add(sample_ids(batch, id_column, num_samples), detached(reference.embed(batch)))
        writer.finish()


class _Writer:
    def __init__(self, folder: Path, num_samples: int) -> None:
        self._folder = folder
        self._written = np.zeros(num_samples, dtype=bool)
        self._arrays: dict[str, NDArray[np.float16]] = {}
        self._logit: tuple[float, float | None] | None = None

    def add(self, ids: NDArray[np.int64], embeddings: Embeddings) -> None:
        if self._written[ids].any() or len(np.unique(ids)) < len(ids):
            raise ValueError(
                f"the source must hold every sample once, but some of samples {ids.min()} to "
                f"{ids.max()} came twice; read one epoch, without replacement"
            )
        for side, values in (("image", embeddings.image), ("text", embeddings.text)):
            stored = values.half()
            if not torch.isfinite(stored).all():
                raise ValueError(
                    f"{side} embeddings must be finite in half precision, but some of samples "
                    f"{ids.min()} to {ids.max()} are not; check the reference model"
                )
            self._array(side, values.shape[1])[ids] = stored.cpu().numpy()
        bias = None if embeddings.bias is None else float(embeddings.bias)
        self._logit = (float(embeddings.scale), bias)
        self._written[ids] = True

    def finish(self) -> None:
        missing = np.flatnonzero(~self._written)
        if len(missing) > 0 or self._logit is None:
            raise ValueError(
                f"the source must hold every sample, but {len(missing)} of {len(self._written)} "
                f"did not come (first {missing[:1].tolist()}); use drop_last=False"
            )
        for array in self._arrays.values():
            assert isinstance(array, np.memmap)
            array.flush()
        scale, bias = self._logit
        manifest = {
            "version": CACHE_VERSION,
            "num_samples": len(self._written),
            "scale": scale,
            "bias": bias,
        }
        (self._folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

    def _array(self, side: str, width: int) -> NDArray[np.float16]:
        if side not in self._arrays:
            self._arrays[side] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                self._folder / f"{side}.npy",
                mode="w+",
                dtype=np.float16,
                shape=(len(self._written), width),
            )
        return self._arrays[side]
