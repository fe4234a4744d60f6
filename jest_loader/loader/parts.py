"""Whether the parts that a ``JestDataset`` is given are what they must be."""

from typing import Protocol

from jest_loader.loader.options import Options
from jest_loader.protocols import Scorer, Selector, Source
from jest_loader.selecting.selectors import UniformSelector


class Parts(Protocol):
    """The parts, before they are known to be any."""

    @property
    def source(self) -> object:
        """Where candidates come from."""
        ...

    @property
    def scorer(self) -> object:
        """What scores them."""
        ...

    @property
    def selector(self) -> object:
        """What selects."""
        ...

    @property
    def options(self) -> object:
        """How it runs."""
        ...


def check_parts(arguments: Parts) -> None:
    """Raise ``ValueError`` unless each part is what it must be."""
    source: object = arguments.source
    scorer: object = arguments.scorer
    selector: object = arguments.selector
    options: object = arguments.options
    for name in ("prepare", "materialize"):
        function = getattr(arguments, name)
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function or None, got {function!r}")
    if not isinstance(source, Source):
        raise ValueError(f"source must be an iterable of batches, got {type(source).__name__}")
    if not isinstance(options, Options):
        raise ValueError(
            f"options must be an Options, got {options!r}; write options=Options(seed=1)"
        )
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
