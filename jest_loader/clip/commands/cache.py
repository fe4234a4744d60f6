"""``jest-loader cache`` and ``jest-loader verify-cache``."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from jest_loader.checks import whole
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.loading.columns import open_shards
from jest_loader.clip.loading.reference import open_clip_reference
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.processes import choose_device
from jest_loader.clip.saving import checkpoint
from jest_loader.loader.seen_candidates import MOST_SHARE
from jest_loader.protocols import Loss
from jest_loader.reference_cache import Manifest, model_fingerprint, verify
from jest_loader.reference_cache.format import read_manifest
from jest_loader.reference_cache.identity import recorded_batch_size
from jest_loader.scoring.precision import Precision

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _ReferenceOptions:
    checkpoint: Path | None = None
    """A checkpoint of `jest-loader train`, whose model is the reference."""

    ema: bool = False
    """Take the average of weights that training with optimizer.ema_decay keeps beside the last."""

    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip with its weights, which is the reference in place of a checkpoint's."""

    loss: Loss = "sigmoid"
    """The loss of the runs that use an open_clip model's cache; a checkpoint knows its own."""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.open_clip.name is not None:
            raise ValueError("a cache is of one reference; set checkpoint or open_clip.name")
        if self.ema and self.checkpoint is None:
            raise ValueError("ema has no effect without a checkpoint; set that too")

    @property
    def names_one(self) -> bool:
        """Whether there is a reference."""
        return self.checkpoint is not None or self.open_clip.name is not None

    def model(self) -> tuple[ClipModel, Loss]:
        """The reference and its loss, on the CPU.

        Raises:
            ValueError: if it cannot be read.
        """
        if self.checkpoint is None:
            return open_clip_reference(self.open_clip, self.loss), self.loss
        model = checkpoint.load_model(self.checkpoint, ema=self.ema)
        return model, "softmax" if model.logit_bias is None else "sigmoid"


@dataclass(frozen=True, kw_only=True)
class CacheConfig(_ReferenceOptions):
    """Embed a data set once with a reference model, so that selection need not run it."""

    data: Path
    """Folder of MDS shards or a Zarr group, as `jest-loader pack` writes them."""

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

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)
        whole("chunk_rows", self.chunk_rows, 1)
        if self.reference_batch_size is not None:
            whole("reference_batch_size", self.reference_batch_size, 1)
        super().__post_init__()
        if not self.names_one:
            raise ValueError("a cache is of a reference; set checkpoint or open_clip.name")


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
    from tqdm.contrib.logging import logging_redirect_tqdm

    model, loss = config.model()
    data = DataConfig(
        config.data, image_column=config.image_column, caption_column=config.caption_column
    )
    with logging_redirect_tqdm():
        manifest = build_reference_cache(
            config.out,
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
    if (_seen_share(manifest) or 0) > MOST_SHARE:
        _LOG.warning(
            "the reference was trained on %.0f %% of these data: selection from them favours what "
            "it has memorised; leave those rows out with selection.exclude_seen, cross-fit with "
            "--folds, or take a reference that was trained on other data",
            100 * (_seen_share(manifest) or 0),
        )
    if loss == "sigmoid" and recorded_batch_size(manifest.identity) is None:
        _LOG.warning(
            "it is not known what batch size the reference was trained at, so runs that use this "
            "cache fit its scale and bias to their sub-batches; set reference_batch_size where you "
            "know it"
        )
    return f"{config.out}: {_described(manifest)}"


def verify_command(config: VerifyConfig) -> str:
    """Check a cache; one line on what it holds.

    Raises:
        ValueError: if it is damaged, or does not belong to the data or the model.
    """
    expect = {}
    if config.data is not None:
        shards = open_shards(config.data, batch_size=1, shuffle=False)
        expect["data"] = shards.fingerprint(read_manifest(config.cache).num_rows)
    if config.names_one:
        expect["model"] = model_fingerprint(config.model()[0])
    return f"{config.cache}: whole; {_described(verify(config.cache, expect=expect))}"


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
