"""From the configuration to the ``JestDataset`` that the trainer reads, and what its steps cost."""

import torch

from jest_loader.clip import checkpoint
from jest_loader.clip.config import SelectionConfig, TrainConfig
from jest_loader.clip.data import Prepare, PreparedSource, open_shards
from jest_loader.clip.towers import TwoTower
from jest_loader.cost import StepCost, selection_flops
from jest_loader.dataset import JestDataset
from jest_loader.protocols import Embedder, Scorer, Selector
from jest_loader.scorers.cached import CachedReference
from jest_loader.scorers.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scorers.models import FrozenReference, LiveLearner
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
    return JestDataset(
        PreparedSource(shards, Prepare(config.data, config.model)),
        _scorer(config, learner, device),
        _selector(config.selection),
        super_batch_size=super_batch_size(config),
        sub_batch_size=batch_size,
        seed=config.seed,
    )


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


def step_cost(config: TrainConfig, model: TwoTower) -> StepCost:
    """Flops of one step of this run, by the cost model."""
    selection, candidates = config.selection, super_batch_size(config)
    forward, batch_size = model.forward_flops, config.data.batch_size
    if selection.selector == "uniform":
        return StepCost(3 * forward * batch_size)
    uses_learner = selection.score != "easy_reference"
    uses_reference = selection.score != "hard_learner"
    runs_reference = uses_reference and selection.reference_cache is None
    per_model = selection_flops(
        candidates, batch_size, config.model.embed_dim, selection.num_chunks
    )
    is_joint = selection.selector == "joint"
    return StepCost(
        training=3 * forward * batch_size,
        scoring=forward * candidates * uses_learner,
        reference=_reference_flops(selection) * candidates if runs_reference else 0,
        selection=per_model * (uses_learner + uses_reference) * is_joint,
    )


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
    match selection.score:
        case "learnability":
            return Learnability(LiveLearner(learner), _reference(selection, device), config.loss)
        case "easy_reference":
            return EasyReference(_reference(selection, device), config.loss)
        case "hard_learner":
            return HardLearner(LiveLearner(learner), config.loss)


def _reference(selection: SelectionConfig, device: torch.device) -> Embedder:
    if selection.reference_cache is not None:
        return CachedReference.open(selection.reference_cache, device=device)
    if selection.reference_checkpoint is not None:
        return FrozenReference(checkpoint.load_model(selection.reference_checkpoint).to(device))
    raise ValueError(
        f"the score {selection.score} needs a reference; set selection.reference_cache or "
        "selection.reference_checkpoint, or use the score hard_learner"
    )


def _reference_flops(selection: SelectionConfig) -> int:
    assert selection.reference_checkpoint is not None
    return checkpoint.load_model(selection.reference_checkpoint).forward_flops
