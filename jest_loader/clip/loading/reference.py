"""The reference model of a run, from a checkpoint of this trainer or from open_clip."""

from typing import Any

from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.cache import cached_models
from jest_loader.clip.models.architecture import Architecture
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.open_clip_architecture import resolve
from jest_loader.clip.saving import checkpoint
from jest_loader.loader.dataset import JestDataset
from jest_loader.protocols import Loss
from jest_loader.reference_cache import model_fingerprint
from jest_loader.scoring.models import FrozenReference


def reference_model(config: TrainConfig) -> ClipModel:
    """The model that ``config.selection`` names as the reference, on the CPU.

    Raises:
        ValueError: if it cannot be read, or takes other inputs than the learner.
    """
    selection = config.selection
    if selection.reference_checkpoint is not None:
        return checkpoint.load_model(selection.reference_checkpoint, for_inputs_of=config)
    options = selection.reference_open_clip
    checkpoint.check_inputs(options.name, resolve(options), config.loss, config)
    return open_clip_reference(options, config.loss)


def open_clip_reference(options: OpenClipConfig, loss: Loss) -> ClipModel:
    """A model of open_clip with its weights, on the CPU.

    Raises:
        ValueError: if it has none, or no logit bias for the sigmoid loss.
    """
    architecture = resolve(options)
    if architecture.weights is None:
        raise ValueError(
            f"a reference must be trained, but {options.name} comes without weights; set "
            "the checkpoint beside it"
        )
    return architecture.build(loss, logit_scale=1.0, logit_bias=None)


def reference_architecture(config: TrainConfig) -> Architecture:
    """What the reference of ``config.selection`` is built from.

    Raises:
        ValueError: if it cannot be read.
    """
    path = config.selection.reference_checkpoint
    if path is None:
        return resolve(config.selection.reference_open_clip)
    return checkpoint.architecture_of(checkpoint.load(path))


def reference_of(config: TrainConfig, loader: JestDataset) -> str | None:
    """Which reference scores, by its class and a digest of its weights; None if none does.

    Of a cache and a model that is run on what it lacks, both; of cross-fitted references, all.
    """
    reference: Any = getattr(loader.scorer, "reference", None)
    found: list[str] = []
    if config.selection.reference_cache is not None:
        found += cached_models(config.selection.reference_cache)
        reference = getattr(reference, "missing", None)
    if isinstance(reference, FrozenReference):
        found.append(model_fingerprint(reference.model))
    return " and ".join(found) or None
