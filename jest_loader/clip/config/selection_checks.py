"""Options of selection that do not go together."""

from operator import attrgetter
from typing import NamedTuple

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.selection import SelectionConfig


class _Effect(NamedTuple):
    """Options that have an effect under some values of a choice only.

    Args:
        options: The options' names.
        choice: The choice's name.
        values: The choice's values, the one to recommend first.
    """

    options: tuple[str, ...]
    choice: str
    values: tuple[str, ...]


_REFERENCE = (
    "reference_cache", "reference_checkpoint", "reference_open_clip", "reference_batch_size",
)  # fmt: skip
_SCORING = (
    "score_micro_batch_size", "score_precision", "mask_equal_captions", "overlap", "quota",
    "schedule", "exclude_seen",
)  # fmt: skip
_RESOLUTION = ("score_patch_size", "score_image_size")
_SCORED, _LEARNER = ("joint", "independent", "topk"), ("learnability", "hard_learner")
_EFFECTS: tuple[_Effect, ...] = (
    _Effect((*_REFERENCE, "scores_with", *_SCORING), "selector", _SCORED),
    _Effect((*_REFERENCE, "exclude_seen"), "score", ("learnability", "easy_reference")),
    _Effect(("scores_with",), "score", _LEARNER),
    _Effect(("schedule.until",), "score", ("learnability",)),
    _Effect(("proxy",), "scores_with", ("proxy",)),
    _Effect(("gain", "schedule.final_gain"), "selector", ("joint", "independent", "uniform")),
)
# Of the resolution, where the learner is not trained at it too.
_EFFECTS_ON_SCORES = (
    _Effect(_RESOLUTION, "selector", _SCORED),
    _Effect(_RESOLUTION, "score", _LEARNER),
    _Effect(_RESOLUTION, "scores_with", ("learner",)),
)


def check_selection(selection: SelectionConfig, model: ModelConfig | None, num_steps: int) -> None:
    """Raise ``ValueError`` for an option that another one leaves without effect, or out of range.

    Args:
        selection: The options.
        model: The learner, if it is the bundled model.
        num_steps: Steps of the run.
    """
    default, effects = SelectionConfig(), _EFFECTS
    if selection.low_resolution_fraction == 0:
        effects += _EFFECTS_ON_SCORES
    for options, choice, values in effects:
        value = getattr(selection, choice)
        changed = [name for name in options if _of(selection, name) != _of(default, name)]
        if changed and value not in values:
            raise ValueError(
                f"selection.{changed[0]} has no effect while selection.{choice} is {value}; leave "
                f"it out, or set selection.{choice} to {values[0]}"
            )
    if None not in (selection.reference_checkpoint, selection.reference_open_clip.name):
        raise ValueError(
            "selection.reference_checkpoint and selection.reference_open_clip.name both name a "
            "reference to run; set one of them"
        )
    if selection.scores_with == "proxy":
        if model is None:
            raise ValueError(
                "selection.scores_with must be learner where open_clip.name is set, since a proxy "
                "takes the bundled model's images and tokens, got proxy"
            )
        selection.proxy.model(model)
    selection.schedule.schedule(num_steps, selection.filter_ratio, selection.gain)


def _of(selection: SelectionConfig, name: str) -> object:
    return attrgetter(name)(selection)
