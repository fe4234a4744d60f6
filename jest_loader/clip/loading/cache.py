"""The bundled trainer's reference cache: what it is made from, building and opening it."""

from pathlib import Path

import torch

from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.loading.columns import (
    ShardSource,
    columns_of,
    open_shards,
    seen_in_shards,
    tokenize_and_decode,
)
from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.protocols import Embedder, Loss
from jest_loader.reference_cache import CachedReference, Manifest, build
from jest_loader.reference_cache.folds import fold_paths
from jest_loader.reference_cache.format import read_manifest
from jest_loader.reference_cache.identity import PUBLISHED
from jest_loader.scoring.cross_fitted import CrossFitted
from jest_loader.scoring.models import FrozenReference
from jest_loader.scoring.precision import Precision


def build_reference_cache(  # noqa: PLR0913
    path: Path,
    data: DataConfig,
    model: ClipModel,
    loss: Loss,
    *,
    trained_batch_size: int | None = None,
    batch_size: int = 256,
    precision: Precision = "auto",
    chunk_rows: int = 1 << 15,
    overwrite: bool = False,
    progress: bool = False,
    peers_timeout_s: float | None = 1800.0,
) -> Manifest:
    """Embed ``data.train`` with ``model``, which was trained with ``loss``, into ``path``.

    The cache records the batch size that it was trained at, by default what the model itself knows.

    Raises:
        ValueError: as ``jest_loader.reference_cache.build``.
        TimeoutError: as ``jest_loader.reference_cache.build``.
    """
    shards = open_shards(
        data.train, columns_of(data), batch_size=batch_size, shuffle=False, drop_last=False
    )
    return build(
        path,
        shards,
        FrozenReference(
            model,
            trained_batch_size=trained_batch_size,
            prepare=tokenize_and_decode(data, model.config),
            precision=precision,
        ),
        identity=inputs_of(data, model.config, loss),
        seen=seen_in_shards(model.seen, data.image_column),
        chunk_rows=chunk_rows,
        overwrite=overwrite,
        progress=progress,
        peers_timeout_s=peers_timeout_s,
    )


def open_reference_cache(
    path: Path,
    config: TrainConfig,
    shards: ShardSource,
    live: Embedder | None,
    device: torch.device,
) -> CachedReference | CrossFitted:
    """The cache at ``path``, once it is known to be that of a run's data and inputs.

    Candidates that the reference could not use are skipped, or embedded by ``live``.

    Raises:
        ValueError: if it is another's, or lacks some of the data and there is no ``live``, or has
            several references and there is one.
    """
    folds = fold_paths(path)
    if folds == [path]:
        return _open(path, config, shards, live, device)
    if live is not None:
        raise ValueError(
            f"{path} is of {len(folds)} cross-fitted references, whose place no other can take; "
            "leave out selection.reference_checkpoint and selection.reference_open_clip.name"
        )
    return CrossFitted([_open(fold, config, shards, None, device) for fold in folds])


def cached_width(path: Path) -> int:
    """The width of a cache's embeddings, of several references the largest."""
    widths = [read_manifest(fold).width for fold in fold_paths(path)]
    return max(width for width in widths if width is not None)


def cached_models(path: Path) -> list[str]:
    """What a cache calls its model or models."""
    return [read_manifest(one).identity.get("model", "not named") for one in fold_paths(path)]


def _open(
    path: Path,
    config: TrainConfig,
    shards: ShardSource,
    live: Embedder | None,
    device: torch.device,
) -> CachedReference:
    """A cache of one reference, as ``open_reference_cache``."""
    manifest = read_manifest(path)
    num_rows = manifest.num_rows
    expect = inputs_of(config.data, trained_architecture(config), config.loss)
    if PUBLISHED in manifest.identity:  # Its model read pictures and captions in its own way.
        expect = {"loss": config.loss}
    expect["data"] = shards.fingerprint(num_rows)
    cached = CachedReference.open(
        path,
        expect=expect,
        trained_batch_size=config.selection.reference_batch_size,
        missing=live or "skip",
        device=device,
    )
    if num_rows < shards.num_examples and live is None:
        raise ValueError(
            f"{path} must hold all of {config.data.train}, but holds {num_rows} examples where "
            f"that has {shards.num_examples}; build it again, or set "
            "selection.reference_checkpoint or selection.reference_open_clip.name too, whose "
            "model is then run on the others"
        )
    return cached


def inputs_of(data: DataConfig, model: ModelInputs, loss: Loss) -> dict[str, str]:
    """What a cache and a run must have in common, but for the data."""
    return {
        "preprocessing": f"column {data.image_column} to {model.preprocessing}",
        "tokenizer": f"column {data.caption_column} to {model.tokenization}",
        "context_length": str(model.context_length),
        "loss": loss,
    }
