"""The sentences for options of selection that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jest_loader.clip.config.model import ModelConfig
    from jest_loader.clip.config.selection import SelectionConfig

_OF_THE_REFERENCE = ("reference_cache", "reference_checkpoint", "reference_open_clip")
_OF_SCORING = (
    *_OF_THE_REFERENCE,
    "scores_with",
    "score_micro_batch_size",
    "mask_equal_captions",
    "overlap",
    "quota",
    "schedule",
)
_OF_THE_LEARNER = ("score_patch_size", "score_image_size")


def check_selection(selection: SelectionConfig, model: ModelConfig | None, num_steps: int) -> None:
    """Raise ``ValueError`` for an option that another one leaves without effect, or out of range.

    Args:
        selection: The options.
        model: The learner, if it is the bundled model.
        num_steps: Of the run.
    """
    default = type(selection)()
    both = selection.reference_checkpoint, selection.reference_open_clip.name
    if None not in both:
        raise ValueError(
            "selection.reference_checkpoint and selection.reference_open_clip.name both name a "
            "reference to run; set one of them"
        )
    # Sizes at which the learner is not trained either.
    unseen = _OF_THE_LEARNER if selection.low_resolution_fraction == 0 else ()
    if selection.selector == "uniform":
        unused = (*_OF_SCORING, *unseen)
        _refuse(selection, default, unused, "selector is uniform", "selector, to joint")
        return
    if selection.score == "hard_learner":
        _refuse(
            selection, default, _OF_THE_REFERENCE, "score is hard_learner", "score, to learnability"
        )
    if selection.score == "easy_reference":
        _refuse(selection, default, unseen, "score is easy_reference", "score, to learnability")
    if selection.scores_with == "learner":
        _refuse(selection, default, ("proxy",), "scores_with is learner", "scores_with, to proxy")
    else:
        _refuse(selection, default, unseen, "scores_with is proxy", "proxy.patch_size")
        if selection.score == "easy_reference":
            raise ValueError(
                "selection.scores_with must be learner with the score easy_reference, for which "
                "neither learner nor proxy runs, got proxy"
            )
        if model is None:
            raise ValueError(
                "selection.scores_with must be learner where open_clip.name is set, since a proxy "
                "takes the bundled model's images and tokens, got proxy"
            )
        selection.proxy.model(model)
    schedule = selection.schedule
    if selection.selector == "topk":
        _refuse(selection, default, ("gain",), "selector is topk", "selector, to joint")
        if schedule.final_gain is not None:
            raise ValueError(
                "selection.schedule.final_gain has no effect while selection.selector is topk; set "
                "selection.selector, to joint for example"
            )
    schedule.schedule(num_steps, selection.filter_ratio, selection.gain)


def _refuse(
    selection: SelectionConfig,
    default: SelectionConfig,
    names: tuple[str, ...],
    state: str,
    remedy: str,
) -> None:
    unused = [name for name in names if getattr(selection, name) != getattr(default, name)]
    if unused:
        raise ValueError(
            f"selection.{unused[0]} has no effect while selection.{state}; set selection.{remedy} "
            "for example"
        )
