"""What a run costs by the cost model."""

from dataclasses import replace

from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.cache import cached_width
from jest_loader.clip.loading.reference import reference_architecture
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.towers import BundledArchitecture
from jest_loader.clip.step.gradients import num_at_low_resolution
from jest_loader.cost.flops import ExampleCost, Setup, example_cost


def run_cost(config: TrainConfig, model: ClipModel) -> ExampleCost:
    """Flops per example of a run that trains ``model``."""
    selection, batch_size = config.selection, config.data.batch_size
    low = model.forward_flops(selection.score_patch_size, selection.score_image_size)
    training = Setup(
        learner=model.forward_flops(),
        learner_low=low,
        low_resolution_fraction=num_at_low_resolution(config) / batch_size,
        sub_batch_size=batch_size,
        num_chunks=selection.num_chunks,
    )
    if selection.selector == "uniform":
        return example_cost(training)
    scorer, scorer_width = low, model.config.embed_dim
    if selection.scores_with == "proxy":
        proxy = BundledArchitecture(selection.proxy.model(config.model))
        scorer, scorer_width = proxy.forward_flops(), proxy.embed_dim
    if selection.score == "easy_reference":
        scorer = scorer_width = 0
    reference, reference_width = _reference_cost(config)
    return example_cost(
        replace(
            training,
            scorer=scorer,
            trains_scorer=selection.scores_with == "proxy",
            reference=reference,
            width=scorer_width + reference_width if selection.selector == "joint" else 0,
        )
    )


def _reference_cost(config: TrainConfig) -> tuple[int, int]:
    """Flops of the reference on a candidate, 0 where it is cached, and its embeddings' width."""
    selection = config.selection
    if selection.score == "hard_learner":
        return 0, 0
    if selection.reference_cache is None:
        reference = reference_architecture(config)
        return reference.forward_flops(), reference.embed_dim
    return 0, cached_width(selection.reference_cache)
