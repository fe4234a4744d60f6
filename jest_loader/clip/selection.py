"""From the configuration to the ``JestDataset`` that the trainer reads, and what its steps cost."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from jest_loader.batch import Batch, take
from jest_loader.clip.config import SelectionConfig, TrainConfig
from jest_loader.clip.data import (
    Decode,
    PrepareCandidates,
    PreparedSource,
    ShardSource,
    Tokenize,
    open_shards,
    refuse_unreadable,
)
from jest_loader.clip.model import ClipModel
from jest_loader.clip.reference import reference_architecture, reference_model
from jest_loader.clip.reference_cache import open_reference_cache
from jest_loader.cost import ExampleCost, selection_flops
from jest_loader.dataset import JestDataset
from jest_loader.protocols import BadSamplesError, Embedder, Embeddings, Scorer, Selector
from jest_loader.scorers.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scorers.models import EmbedFunction, FrozenReference, LiveLearner
from jest_loader.selection import (
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.skipped import listed, skip_budget

_LOG = logging.getLogger(__name__)


def build_loader(config: TrainConfig, learner: ClipModel, device: torch.device) -> JestDataset:
    """The training data, as sub-batches of ``config.data.batch_size``.

    Raises:
        ValueError: if the filter ratio does not make whole super-batches, or a reference is
            missing.
    """
    batch_size = config.data.batch_size
    shards = open_shards(config.data.train, batch_size=batch_size, shuffle=True, seed=config.seed)
    prepare, materialize = _decoding(config)
    loader = JestDataset(
        PreparedSource(shards, prepare),
        _scorer(config, learner, shards, device),
        _selector(config.selection),
        super_batch_size=super_batch_size(config),
        sub_batch_size=batch_size,
        materialize=materialize,
        seed=config.seed,
        max_skipped_fraction=config.data.max_skipped_fraction,
    )
    if len(loader) == 0:
        raise ValueError(
            f"{config.data.train} must hold at least one super-batch of {loader.super_batch_size} "
            f"examples, but has {shards.num_examples}; lower data.batch_size or "
            "selection.filter_ratio"
        )
    return loader


def super_batch_size(config: TrainConfig) -> int:
    """Candidates per step: the batch itself for uniform selection, else batch / (1 - filter ratio).

    Raises:
        ValueError: if that is not a whole number of batches.
    """
    if config.selection.selector == "uniform":
        return config.data.batch_size
    ratio = config.selection.filter_ratio
    if not 0 <= ratio < 1 or abs(1 / (1 - ratio) - round(1 / (1 - ratio))) > 1e-6:
        raise ValueError(
            "filter_ratio must be 1 - 1/n for a whole n, so that a super-batch is n batches "
            f"(0.5, 0.75, 0.8, 0.9), got {ratio}"
        )
    return round(1 / (1 - ratio)) * config.data.batch_size


def _decoding(
    config: TrainConfig,
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[Batch], Batch] | None]:
    """What is done to batches as they are read, and to sub-batches once they are chosen.

    Where all candidates are needed as pixels they are decoded once, while reading ahead.
    Otherwise, only those chosen are decoded.
    """
    if config.selection.selector == "uniform":
        readable = partial(_readable, max_skipped_fraction=config.data.max_skipped_fraction)
        return PrepareCandidates(config.data, config.architecture), readable
    if _scores_pixels(config.selection):
        return PrepareCandidates(config.data, config.architecture), None
    return Tokenize(config.data, config.architecture), Decode(config.model)


def _scores_pixels(selection: SelectionConfig) -> bool:
    """Whether a model looks at the candidates' images."""
    cached_only = selection.reference_cache is not None and not selection.has_live_reference
    return selection.score != "easy_reference" or not cached_only


def _readable(batch: Batch, max_skipped_fraction: float) -> Batch:
    """The batch without rows that could not be decoded.

    Uniform selection has no other candidates to put in their places. More than may be skipped are
    left to ``JestDataset`` to refuse.
    """
    try:
        refuse_unreadable(batch)
    except BadSamplesError as error:
        size = len(batch["unreadable"])
        if (
            len(error.reasons) > skip_budget(size, max_skipped_fraction)
            or len(error.reasons) == size
        ):
            raise
        _LOG.warning("left out of a batch of %d: %s", size, listed(error.reasons, batch))
        return take(batch, torch.tensor([row for row in range(size) if row not in error.reasons]))
    return batch


def _embed_readable(
    model: nn.Module, batch: Batch, patch_size: int | None = None, image_size: int | None = None
) -> Embeddings:
    """What the model makes of the batch, unless it holds images that could not be decoded."""
    refuse_unreadable(batch)
    assert isinstance(model, ClipModel)
    return model.embed(batch, patch_size, image_size)


def example_cost(config: TrainConfig, model: ClipModel) -> ExampleCost:
    """Flops per example of this run, by the cost model."""
    selection, forward = config.selection, model.forward_flops()
    low = model.forward_flops(selection.score_patch_size, selection.score_image_size)
    num_low, batch_size = num_at_low_resolution(config), config.data.batch_size
    training = 3 * (forward + (low - forward) * num_low / batch_size)
    if selection.selector == "uniform":
        return ExampleCost(training, uniform=3 * forward)
    uses_learner = selection.score != "easy_reference"
    uses_reference = selection.score != "hard_learner"
    runs_reference = uses_reference and selection.reference_cache is None
    widths = config.architecture.embed_dim * (uses_learner + uses_reference)
    products = selection_flops(1, batch_size, widths, selection.num_chunks)
    return ExampleCost(
        training=training,
        scoring=low * uses_learner,
        reference=reference_architecture(config).forward_flops() if runs_reference else 0,
        selection=products if selection.selector == "joint" else 0,
        uniform=3 * forward,
    )


def num_at_low_resolution(config: TrainConfig) -> int:
    """Examples of a sub-batch that are trained on at the resolution of scoring."""
    return round(config.selection.low_resolution_fraction * config.data.batch_size)


def _selector(selection: SelectionConfig) -> Selector:
    match selection.selector:
        case "joint":
            return JointSelector(selection.num_chunks, selection.gain)
        case "independent":
            return IndependentSelector(selection.gain)
        case "topk":
            return TopKSelector()
        case "uniform":
            return UniformSelector()


def _scorer(
    config: TrainConfig, learner: ClipModel, shards: ShardSource, device: torch.device
) -> Scorer | None:
    selection = config.selection
    if selection.selector == "uniform":
        return None
    # As many at once as in training: that much fits, and a CPU's caches like it (a third faster).
    live = LiveLearner(learner, _embed(selection), micro_batch_size=config.data.batch_size)
    match selection.score:
        case "learnability":
            return Learnability(live, _reference(config, shards, device), config.loss)
        case "easy_reference":
            return EasyReference(_reference(config, shards, device), config.loss)
        case "hard_learner":
            return HardLearner(live, config.loss)


def _embed(selection: SelectionConfig) -> EmbedFunction:
    """How the learner scores: at its own resolution, or at a lower one."""
    low = (selection.score_patch_size, selection.score_image_size)
    return lambda model, batch: _embed_readable(model, batch, *low)


def _reference(config: TrainConfig, shards: ShardSource, device: torch.device) -> Embedder:
    selection = config.selection
    live = None
    if selection.has_live_reference:
        model = reference_model(config).to(device)
        live = FrozenReference(model, _embed_readable, micro_batch_size=config.data.batch_size)
    if selection.reference_cache is not None:
        return open_reference_cache(selection.reference_cache, config, shards, live, device)
    if live is not None:
        return live
    raise ValueError(
        f"the score {selection.score} needs a reference; set selection.reference_cache, "
        "selection.reference_checkpoint or selection.reference_open_clip.name, or use the score "
        "hard_learner"
    )
