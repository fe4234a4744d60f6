"""What a ``JestDataset`` can be made of: the sentences for what does not go together."""

import threading

from jest_loader.protocols import Scorer, Selector, Source, Stateful
from jest_loader.selection import UniformSelector
from jest_loader.super_batch import declared_batch_size, size_error


def check_parts(source: object, scorer: object, selector: object, materialize: object) -> None:
    """Raise ``ValueError`` unless each part is what it must be."""
    if materialize is not None and not callable(materialize):
        raise ValueError(f"materialize must be a function or None, got {materialize!r}")
    if not isinstance(source, Source):
        raise ValueError(f"source must be an iterable of batches, got {type(source).__name__}")
    if not isinstance(selector, Selector) or isinstance(selector, type):
        raise ValueError(
            f"selector must be an object with a select method, got {selector!r}; "
            "use one like JointSelector()"
        )
    if scorer is None and not isinstance(selector, UniformSelector):
        raise ValueError(
            f"scorer=None goes with UniformSelector only, got {type(selector).__name__}; "
            "pass a scorer"
        )
    if scorer is not None and (not isinstance(scorer, Scorer) or isinstance(scorer, type)):
        raise ValueError(
            "scorer must be an object with a score(super_batch) method, "
            f"got {type(scorer).__name__}; wrap a model as in "
            "Learnability(LiveLearner(model), reference)"
        )


def check_sizes(source: Source, super_batch_size: int, sub_batch_size: int) -> None:
    """Raise ``ValueError`` unless source batches make super-batches, and these sub-batches."""
    if sub_batch_size > super_batch_size:
        raise ValueError(
            "sub_batch_size must be at most super_batch_size, "
            f"got {sub_batch_size} and {super_batch_size}"
        )
    batch_size = declared_batch_size(source)
    if batch_size is not None and super_batch_size % batch_size != 0:
        raise ValueError(size_error(super_batch_size, batch_size))


def check_stateful(source: Source) -> Stateful:
    """The source; raises ``ValueError`` unless it can save and restore its state."""
    if not isinstance(source, Stateful):
        raise ValueError(
            f"the state of a {type(source).__name__} can be neither saved nor restored, since it "
            "has no state_dict; use torchdata's StatefulDataLoader in place of DataLoader, or a "
            "source from jest_loader.adapters"
        )
    return source


def check_limits(stall_timeout_s: float | None, max_skipped_fraction: float) -> None:
    """Raise ``ValueError`` unless both limits are in range."""
    if stall_timeout_s is not None and not 0 < stall_timeout_s < threading.TIMEOUT_MAX:
        raise ValueError(
            f"stall_timeout_s must be a positive number of seconds, got {stall_timeout_s}; use "
            "None to wait for ever"
        )
    if not 0 <= max_skipped_fraction <= 1:
        raise ValueError(f"max_skipped_fraction must be from 0 to 1, got {max_skipped_fraction}")
