"""Joint example selection (JEST) for any training loop: super-batches in, sub-batches out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jest_loader.public import *  # noqa: F403 (all of them)
    from jest_loader.public import __all__ as __all__


def __getattr__(name: str) -> Any:
    # When it is first asked for: importing torch takes seconds, and who stops the command in them
    # is to see a sentence.
    if name == "__all__" or not name.startswith("__") or name == "__version__":
        public = import_module("jest_loader.public")
        globals().update({own: getattr(public, own) for own in [*public.__all__, "__all__"]})
        if name in globals():  # Modules of the package, too, are there now.
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
