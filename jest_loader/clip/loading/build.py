"""From the configuration to the ``JestDataset`` that the trainer reads."""

import logging
from collections.abc import Callable

import torch
from torch import nn

from jest_loader.batch import Batch
from jest_loader.clip.config.schedule import num_batches
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.cache import open_reference_cache
from jest_loader.clip.loading.columns import (
    Decode,
    ShardSource,
    Tokenize,
    columns_of,
    open_shards,
    tokenize_and_decode,
)
from jest_loader.clip.loading.fitting import fitted
from jest_loader.clip.loading.proxy import build_proxy
from jest_loader.clip.loading.reference import reference_model
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.clip.processes import per_rank
from jest_loader.embeddings import Embeddings
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.options import Options
from jest_loader.loader.schedule import Schedule
from jest_loader.protocols import Embedder, Scorer, Selector, WithLearner, WithReference
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.cross_fitted import CrossFitted
from jest_loader.scoring.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scoring.models import EmbedFunction, FrozenReference, LiveLearner
from jest_loader.scoring.online_proxy import OnlineProxy
from jest_loader.scoring.runner import RunOptions
from jest_loader.scoring.sized import SizedEmbedder
from jest_loader.selecting.selectors import (
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)

_LOG = logging.getLogger(__name__)


def build_loader(
    config: TrainConfig,
    learner: ClipModel,
    device: torch.device,
    calibration: Calibration | None = None,
) -> JestDataset:
    """The training data, as sub-batches of this rank's share of ``config.data.batch_size``.

    Args:
        config: The run.
        learner: The model that it trains.
        device: Where it runs.
        calibration: The scale and bias that a run that goes on had fitted its reference to, if any.

    Raises:
        ValueError: if the ranks do not divide a batch, the filter ratio does not make whole
            super-batches, or a reference is missing.
    """
    batch_size = per_rank("data.batch_size", config.data.batch_size)
    shards = open_shards(
        config.data.train,
        columns_of(config.data),
        batch_size=batch_size,
        shuffle=True,
        window_rows=config.data.window_rows,
        seed=config.seed,
    )
    largest = max(super_batch_size(config), _largest_super_batch(config))
    too_few = ValueError(
        f"{config.data.train} must hold at least one super-batch of {largest} "
        f"examples, but has {shards.num_examples}; lower data.batch_size, "
        "selection.filter_ratio or selection.schedule.final_filter_ratio"
    )
    if shards.num_examples < largest:
        raise too_few
    prepare, materialize = _decoding(config)
    loader = JestDataset(
        shards,
        _scorer(config, learner, lambda: _reference(config, shards, device, calibration), device),
        _selector(config.selection),
        super_batch_size=per_rank("a super-batch", super_batch_size(config)),
        sub_batch_size=batch_size,
        prepare=prepare,
        materialize=materialize,
        options=Options(
            seed=config.seed,
            schedule=_schedule(config),
            overlap=config.selection.overlap,
            exclude_seen=config.selection.exclude_seen,
            max_skipped_fraction=config.data.max_skipped_fraction,
        ),
    )
    if len(loader) == 0:
        raise too_few
    return loader


def super_batch_size(config: TrainConfig) -> int:
    """Candidates per step: the batch itself for uniform selection, else batch / (1 - filter ratio).

    Raises:
        ValueError: if that is not a whole number of batches.
    """
    if config.selection.selector == "uniform":
        return config.data.batch_size
    return num_batches(config.selection.filter_ratio) * config.data.batch_size


def _largest_super_batch(config: TrainConfig) -> int:
    """Candidates of the run's largest step, as far as a schedule says."""
    ratio = config.selection.schedule.final_filter_ratio
    return 0 if ratio is None else num_batches(ratio) * config.data.batch_size


def _schedule(config: TrainConfig) -> Schedule | None:
    selection = config.selection
    return selection.schedule.schedule(config.steps, selection.filter_ratio, selection.gain)


def _decoding(
    config: TrainConfig,
) -> tuple[Callable[[Batch], Batch], Callable[[Batch], Batch] | None]:
    """What is done to batches as they are read, and to sub-batches once they are chosen.

    Where all candidates are needed as pixels they are decoded once, while reading ahead.
    Otherwise, only those chosen are decoded.
    """
    selection, model = config.selection, trained_architecture(config)
    if selection.selector == "uniform" or _scores_pixels(selection):
        return tokenize_and_decode(config.data, model), None
    return Tokenize(config.data, model), Decode(model)


def _scores_pixels(selection: SelectionConfig) -> bool:
    """Whether a model looks at the candidates' images."""
    cached_only = selection.reference_cache is not None and not selection.has_live_reference
    return selection.score != "easy_reference" or not cached_only


def _selector(selection: SelectionConfig) -> Selector:
    match selection.selector:
        case "joint":
            return JointSelector(selection.num_chunks, selection.gain, quota=selection.quota)
        case "independent":
            return IndependentSelector(selection.gain, quota=selection.quota)
        case "topk":
            return TopKSelector(quota=selection.quota)
        case "uniform":
            return UniformSelector()


def _scorer(
    config: TrainConfig,
    learner: ClipModel,
    reference: Callable[[], Embedder],
    device: torch.device,
) -> Scorer | None:
    selection = config.selection
    if selection.selector == "uniform":
        return None
    equal_by = "caption" if selection.mask_equal_captions else None
    match selection.score:
        case "learnability":
            scoring = _learner(config, learner, device)
            return Learnability(scoring, reference(), config.loss, equal_by)
        case "easy_reference":
            return EasyReference(reference(), config.loss, equal_by)
        case "hard_learner":
            return HardLearner(_learner(config, learner, device), config.loss, equal_by)


def _learner(config: TrainConfig, learner: ClipModel, device: torch.device) -> Embedder:
    """What scores as the learner."""
    options = _run_options(config)
    if config.selection.scores_with == "proxy":
        return build_proxy(config, device, **options)
    return LiveLearner(learner, _embed(config.selection), **options)


def _run_options(config: TrainConfig) -> RunOptions:
    """How the models that score are run."""
    # As many as in training: that much fits, and a CPU's caches like it (a third faster).
    share = per_rank("data.batch_size", config.data.batch_size)
    num_trained = min(share, config.data.micro_batch_size or share)
    selection = config.selection
    return RunOptions(
        micro_batch_size=selection.score_micro_batch_size or num_trained,
        precision=selection.score_precision,
    )


def proxy_of(loader: JestDataset) -> OnlineProxy | None:
    """The small model that scores in the learner's place, whose weights must be saved too."""
    scorer: object = loader.scorer
    learner = scorer.learner if isinstance(scorer, WithLearner) else None
    return learner if isinstance(learner, OnlineProxy) else None


def calibration_of(loader: JestDataset) -> list[float] | None:
    """The scale and bias that the reference was fitted to; None if it was not."""
    scorer: object = loader.scorer
    reference = scorer.reference if isinstance(scorer, WithReference) else None
    found = reference.calibration if isinstance(reference, SizedEmbedder) else None
    return None if found is None else list(found)


def _embed(selection: SelectionConfig) -> EmbedFunction:
    """How the learner scores: at its own resolution, or at a lower one."""
    low = (selection.score_patch_size, selection.score_image_size)

    def embed(model: nn.Module, batch: Batch) -> Embeddings:
        assert isinstance(model, ClipModel)
        return model.embed(batch, *low)

    return embed


def _reference(
    config: TrainConfig,
    shards: ShardSource,
    device: torch.device,
    calibration: Calibration | None,
) -> Embedder:
    selection = config.selection
    live = None
    if selection.has_live_reference:
        model, size = reference_model(config).to(device), selection.reference_batch_size
        live = FrozenReference(
            model, trained_batch_size=size, seen=model.seen, **_run_options(config)
        )
    if selection.reference_cache is not None:
        cached = open_reference_cache(selection.reference_cache, config, shards, live, device)
        if isinstance(cached, CrossFitted):
            return cached
        return fitted(cached, config, calibration, decodes=live is not None)
    if live is not None:
        return fitted(live, config, calibration, decodes=True)
    raise ValueError(
        f"the score {selection.score} needs a reference; set selection.reference_cache, "
        "selection.reference_checkpoint or selection.reference_open_clip.name, or use the score "
        "hard_learner"
    )
