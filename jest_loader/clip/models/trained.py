"""Which architecture a run trains."""

from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.models.architecture import Architecture
from jest_loader.clip.models.open_clip_architecture import OpenClipArchitecture, resolve
from jest_loader.clip.models.towers import BundledArchitecture


def trained_architecture(config: TrainConfig) -> Architecture:
    """What the model of a run is built from.

    Raises:
        ValueError: if open_clip has no such model or is not installed.
    """
    if config.open_clip.name is None:
        return BundledArchitecture(config.model)
    return resolve(config.open_clip)


def trained_batch_size(config: TrainConfig) -> int | None:
    """The batch size that the logit bias of a run's model is of, over all ranks.

    None where the run starts from weights that others trained: their bias hardly moves.
    """
    architecture = trained_architecture(config)
    if isinstance(architecture, OpenClipArchitecture) and architecture.weights is not None:
        return None
    return config.data.batch_size
