"""``jest-loader cache`` and ``jest-loader verify-cache``."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jest_loader.checks import shown, whole
from jest_loader.clip.commands.adopt import AdoptOptions, adopt_embeddings
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.loading.columns import open_shards
from jest_loader.clip.loading.reference import open_clip_reference
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.processes import choose_device
from jest_loader.clip.saving import checkpoint
from jest_loader.environment import launched_as
from jest_loader.loader.seen_candidates import MOST_SHARE
from jest_loader.protocols import Loss
from jest_loader.reference_cache import Manifest, model_fingerprint, verify
from jest_loader.reference_cache.folds import (
    check_free_for_folds,
    fold_path,
    fold_paths,
    num_seen_by_all,
    save_folds,
)
from jest_loader.reference_cache.format import read_manifest
from jest_loader.reference_cache.identity import recorded_batch_size
from jest_loader.scoring.precision import Precision

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _ReferenceOptions:
    checkpoint: Path | None = None
    """A checkpoint of `jest-loader train`, whose model is the reference."""

    folds: tuple[Path, ...] = ()
    """Checkpoints of two or more references in its place, each trained without a part of the data
    that another was trained on; they score in turn, and never what they have seen.
    """

    ema: bool = False
    """Take the average of weights that training with optimizer.ema_decay keeps beside the last."""

    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip with its weights, which is the reference in place of a checkpoint's."""

    loss: Loss = "sigmoid"
    """The loss of the runs that use an open_clip model's cache; a checkpoint knows its own."""

    def __post_init__(self) -> None:
        named = (self.checkpoint is not None, self.open_clip.name is not None, self.folds != ())
        if sum(named) > 1:
            raise ValueError("a cache is of one reference; set checkpoint, open_clip.name or folds")
        if len(self.folds) == 1:
            raise ValueError("folds are at least two checkpoints, got one; set checkpoint")
        if len({path.resolve() for path in self.folds}) < len(self.folds):
            raise ValueError(
                "folds must be different checkpoints, each trained without a part of the data, got "
                f"one twice: {shown([str(path) for path in self.folds])}; name each once"
            )
        if self.ema and self.checkpoint is None and not self.folds:
            raise ValueError("ema has no effect without a checkpoint; set that too")

    @property
    def names_one(self) -> bool:
        """Whether there is a reference."""
        return bool(self.checkpoint or self.open_clip.name is not None or self.folds)

    def models(self) -> Iterator[tuple[ClipModel, Loss]]:
        """The references and their loss, on the CPU, one after the other.

        Raises:
            ValueError: if one cannot be read.
        """
        if self.open_clip.name is not None:
            yield open_clip_reference(self.open_clip, self.loss), self.loss
            return
        for path in self.folds or [self.checkpoint]:
            assert path is not None, "one is named"
            model = checkpoint.load_model(path, ema=self.ema)
            yield model, "softmax" if model.logit_bias is None else "sigmoid"


@dataclass(frozen=True, kw_only=True)
class CacheConfig(AdoptOptions, _ReferenceOptions):
    """Embed a data set once with a reference model, so that selection need not run it."""

    data: Path
    """Folder of MDS shards or a Zarr group, as `jest-loader pack` writes them, or WebDataset tars
    or Parquet files: a folder, or a pattern such as 'shards/{00000..01023}.tar' or
    'data/train-*.parquet'.
    """

    out: Path
    """Folder of the cache. The same command goes on from what it holds."""

    image_column: str = "image"
    """Column of images."""

    caption_column: str = "caption"
    """Column of captions."""

    batch_size: int = 256
    """Examples embedded at once."""

    chunk_rows: int = 1 << 15
    """Examples of a chunk: after a stop, at most so many are embedded again."""

    device: str = "auto"
    """A torch device; auto takes a GPU where there is one, each process of torchrun its own."""

    precision: Precision = "auto"
    """Precision of the towers; auto is fp16 on a GPU and fp32 elsewhere."""

    reference_batch_size: int | None = None
    """Batch size over all processes that the reference was trained at with the sigmoid loss, which
    the cache then records. None takes what the checkpoint records; an open_clip model's does not.
    """

    overwrite: bool = False
    """Delete the cache that the folder holds first."""

    peers_timeout_s: float = 1800.0
    """Of several processes, the longest that one which is done waits without another chunk of the
    others, seconds.
    """

    json: bool = False
    """Print what the cache holds as one JSON document; not of folds."""

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)
        whole("chunk_rows", self.chunk_rows, 1)
        if self.reference_batch_size is not None:
            whole("reference_batch_size", self.reference_batch_size, 1)
        super().__post_init__()
        self.check_adoption()
        if self.names_one == (self.from_ is not None):
            raise ValueError(
                "a cache is of one reference, or of published embeddings; set one of checkpoint, "
                "open_clip.name, folds and from"
            )
        if self.json and self.folds:
            raise ValueError("json is of one reference; leave out json, or folds")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(_ReferenceOptions):
    """Compare a reference cache with its checksums, and with the data and reference it is of."""

    cache: Path
    """Folder of the cache."""

    data: Path | None = None
    """Data that it must have been built from, or from the first shards of; None checks none."""


def cache_command(config: CacheConfig) -> str:
    """Build a cache with a progress bar; one line on what it holds.

    Raises:
        ValueError: as ``build``, or if there is no such checkpoint or data.
        TimeoutError: as ``build``.
    """
    if config.from_ is not None:
        return _printed(config, _adopted(config))
    if config.folds:
        check_free_for_folds(config.out, len(config.folds), overwrite=config.overwrite)
    built = [
        _build(config, fold_path(config.out, number) if config.folds else config.out, *one)
        for number, one in enumerate(config.models())
    ]
    if config.folds:
        return _finish_folds(config, built)
    _warn_of_seen(_seen_share(built[0]))
    return _printed(config, built[0])


def verify_command(config: VerifyConfig) -> str:
    """Check a cache; one line on what it holds.

    Raises:
        ValueError: if it is damaged, or does not belong to the data or the model.
    """
    paths = fold_paths(config.cache)
    models = [model_fingerprint(model) for model, _ in config.models()] if config.names_one else []
    if models and len(models) != len(paths):
        raise ValueError(
            f"{config.cache} must be of as many references as are named, but is of {len(paths)} "
            f"and {len(models)} are; name all of them, or none"
        )
    found = []
    for number, path in enumerate(paths):
        expect = {"model": models[number]} if models else {}
        if config.data is not None:
            shards = open_shards(config.data, batch_size=1, shuffle=False)
            expect["data"] = shards.fingerprint(read_manifest(path).num_rows)
        found.append(_described(verify(path, expect=expect)))
    if len(found) > 1:
        found = [f"{path.name}: {one}" for path, one in zip(paths, found, strict=True)]
    return f"{config.cache}: whole; {'; '.join(found)}"


def _adopted(config: CacheConfig) -> Manifest:
    return adopt_embeddings(
        config,
        config.data,
        config.out,
        other_column=config.caption_column,
        trained_batch_size=config.reference_batch_size,
        chunk_rows=config.chunk_rows,
        overwrite=config.overwrite,
    )


def _printed(config: CacheConfig, manifest: Manifest) -> str:
    """One line on what a cache of one reference holds, or its manifest without checksums."""
    if not config.json:
        return f"{config.out}: {_described(manifest)}"
    known = {**asdict(manifest), "cache": str(config.out)}
    del known["checksums"]
    return json.dumps(known)


def _build(config: CacheConfig, path: Path, model: ClipModel, loss: Loss) -> Manifest:
    """The cache of one reference at ``path``."""
    data = DataConfig(
        config.data, image_column=config.image_column, caption_column=config.caption_column
    )
    manifest = build_reference_cache(
        path,
        data,
        model.to(choose_device(config.device)),
        loss,
        trained_batch_size=config.reference_batch_size,
        batch_size=config.batch_size,
        precision=config.precision,
        chunk_rows=config.chunk_rows,
        overwrite=config.overwrite,
        progress=True,
        peers_timeout_s=config.peers_timeout_s,
    )
    if loss == "sigmoid" and recorded_batch_size(manifest.identity) is None:
        _LOG.warning(
            "it is not known what batch size the reference was trained at, so runs that use this "
            "cache fit its scale and bias to their sub-batches; set reference_batch_size where you "
            "know it"
        )
    return manifest


def _finish_folds(config: CacheConfig, built: list[Manifest]) -> str:
    """Say that all folds are there; one line on them."""
    if launched_as()[0] == 0:
        save_folds(config.out, len(built))
    num_lost, num_rows = num_seen_by_all(config.out), built[0].num_rows
    if num_lost > MOST_SHARE * num_rows:
        _LOG.warning(
            "%.0f %% of these data have been seen by each of the references, so that none may "
            "score them and they are never chosen; train the references on parts that do not "
            "overlap",
            100 * num_lost / num_rows,
        )
    shares = ", ".join(f"{100 * (_seen_share(one) or 0):.1f}" for one in built)
    return (
        f"{config.out}: {len(built)} references, which were trained on {shares} % of {num_rows} "
        f"examples; {100 * num_lost / num_rows:.1f} % of the examples have been seen by each"
    )


def _warn_of_seen(share: float | None) -> None:
    if (share or 0) > MOST_SHARE:
        _LOG.warning(
            "the reference was trained on %.1f %% of these data: selection from them favours what "
            "it has memorised; leave those rows out with selection.exclude_seen, cross-fit with "
            "--folds, or take a reference that was trained on other data",
            100 * (share or 0),
        )


def _seen_share(manifest: Manifest) -> float | None:
    """The share of the data that the reference was trained on, as far as that is known."""
    seen, known = manifest.num_seen, manifest.num_known
    return seen / known if seen is not None and known else None


def _described(manifest: Manifest) -> str:
    share = _seen_share(manifest)
    seen = "" if share is None else f"; the reference was trained on {100 * share:.1f} % of them"
    return (
        f"{manifest.num_rows} examples, {manifest.num_missing} of them missing, "
        f"{manifest.kind} of width {manifest.width}{seen}"
    )
