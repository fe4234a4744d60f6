"""From the configuration to the ``JestDataset`` that the trainer reads, and what its steps cost."""

import torch

from jest_loader.clip import checkpoint
from jest_loader.clip.config import SelectionConfig, TrainConfig
from jest_loader.clip.data import Prepare, PreparedSource, open_shards
from jest_loader.clip.towers import TwoTower
from jest_loader.cost import ExampleCost, selection_flops
from jest_loader.dataset import JestDataset
from jest_loader.protocols import Embedder, Scorer, Selector
from jest_loader.scorers.cached import CachedReference
from jest_loader.scorers.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scorers.models import EmbedFunction, FrozenReference, LiveLearner
from jest_loader.selection import (
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)


def build_loader(config: TrainConfig, learner: TwoTower, device: torch.device) -> JestDataset:
    """The training data, as sub-batches of ``config.data.batch_size``.

    Raises:
        ValueError: if the filter ratio does not make whole super-batches, or a reference is
            missing.
    """
    batch_size = config.data.batch_size
    shards = open_shards(config.data.train, batch_size=batch_size, shuffle=True, seed=config.seed)
    loader = JestDataset(
        PreparedSource(shards, Prepare(config.data, config.model)),
        _scorer(config, learner, device),
        _selector(config.selection),
        super_batch_size=super_batch_size(config),
        sub_batch_size=batch_size,
        seed=config.seed,
    )
    if len(loader) == 0:
        raise ValueError(
            f"{config.data.train} must hold at least one super-batch of {loader.super_batch_size} "
            f"examples, but has {shards.num_examples}; lower data.batch_size or "
            "selection.filter_ratio"
        )
    cached = getattr(loader.scorer, "reference", None)
    if isinstance(cached, CachedReference) and len(cached) != shards.num_examples:
        raise ValueError(
            f"{config.selection.reference_cache} must be the cache of {config.data.train}, but "
            f"holds {len(cached)} samples where that has {shards.num_examples}"
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


def example_cost(config: TrainConfig, model: TwoTower) -> ExampleCost:
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
    widths = config.model.embed_dim * (uses_learner + uses_reference)
    products = selection_flops(1, batch_size, widths, selection.num_chunks)
    return ExampleCost(
        training=training,
        scoring=low * uses_learner,
        reference=_reference_flops(config) if runs_reference else 0,
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


def _scorer(config: TrainConfig, learner: TwoTower, device: torch.device) -> Scorer | None:
    selection = config.selection
    if selection.selector == "uniform":
        return None
    # As many at once as in training: that much fits, and a CPU's caches like it (a third faster).
    embed = _embed(learner, selection)
    live = LiveLearner(learner, embed, micro_batch_size=config.data.batch_size)
    match selection.score:
        case "learnability":
            return Learnability(live, _reference(config, device), config.loss)
        case "easy_reference":
            return EasyReference(_reference(config, device), config.loss)
        case "hard_learner":
            return HardLearner(live, config.loss)


def _embed(learner: TwoTower, selection: SelectionConfig) -> EmbedFunction:
    """How the learner scores: at its own resolution, or at a lower one."""
    low = (selection.score_patch_size, selection.score_image_size)
    return lambda _, batch: learner.embed(batch, *low)


def _reference(config: TrainConfig, device: torch.device) -> Embedder:
    selection = config.selection
    if selection.reference_cache is not None:
        return CachedReference.open(selection.reference_cache, device=device)
    if selection.reference_checkpoint is not None:
        model = checkpoint.load_model(selection.reference_checkpoint, for_inputs_of=config)
        return FrozenReference(model.to(device), micro_batch_size=config.data.batch_size)
    raise ValueError(
        f"the score {selection.score} needs a reference; set selection.reference_cache or "
        "selection.reference_checkpoint, or use the score hard_learner"
    )


def _reference_flops(config: TrainConfig) -> int:
    assert config.selection.reference_checkpoint is not None
    path = config.selection.reference_checkpoint
    return checkpoint.load_model(path, for_inputs_of=config).forward_flops()
