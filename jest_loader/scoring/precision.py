"""The precision in which a model scores: the dtype that autocast gives to its products."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, Protocol, get_args, runtime_checkable

import torch

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""How precisely a model scores; ``autocast_dtype`` says what each word means."""

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@runtime_checkable
class ExplainsNonFinite(Protocol):
    """A scorer or embedder that knows why its numbers may not be finite."""

    @property
    def if_not_finite(self) -> str:
        """What to change if they are not; empty where it knows of nothing."""
        ...


def checked_precision(precision: object) -> Precision:
    """The precision; raises ``ValueError`` if it is another word."""
    for known in get_args(Precision):
        if precision == known:
            found: Precision = known
            return found
    raise ValueError(f"precision must be 'auto', 'fp32', 'fp16' or 'bf16', got {precision!r}")


def autocast_dtype(
    precision: Precision, device_type: str, weights: Collection[torch.dtype]
) -> torch.dtype | None:
    """The dtype of ``torch.autocast`` in which a model scores; None scores without autocast.

    ``"auto"`` is fp16 for weights in fp32 on a CUDA device: its rounding is an eighth of bf16's.
    Weights in half precision keep their dtype, so that candidates in fp32 are cast to it. All
    others score as they are.

    Args:
        precision: What the user asked for.
        device_type: Where the model is, such as ``"cuda"``.
        weights: The floating-point dtypes of its weights.

    Raises:
        ValueError: if autocast cannot bring such weights to that precision.
    """
    own = [half for half in _HALVES.values() if half in weights]
    if precision == "auto":
        if own:
            return own[0]
        on_cuda = device_type == "cuda" and set(weights) == {torch.float32}
        return torch.float16 if on_cuda else None
    if torch.float64 in weights or (own and precision == "fp32"):
        kind = "torch.float64" if torch.float64 in weights else str(own[0])
        raise ValueError(
            f"precision must be 'auto' for a model whose weights are {kind}, which autocast does "
            f"not change to {precision}, got {precision!r}; leave it out, or cast the model"
        )
    return _HALVES.get(precision)


@contextmanager
def without_autocast() -> Iterator[None]:
    """A block that autocast around the training loop has no effect on, whatever the device."""
    with ExitStack() as outside:
        for kind in filter(torch.is_autocast_enabled, _DEVICES):
            outside.enter_context(torch.autocast(kind, enabled=False))
        yield


def remedy(dtype: torch.dtype | None) -> str:
    """What to change where numbers of a model that ran in ``dtype`` are not finite."""
    if dtype != torch.float16:
        return ""
    return "a model scored in fp16, which ends at 65504: set its precision to bf16 or fp32"


def remedies(parts: Collection[object]) -> str:
    """The first remedy that one of a scorer's parts knows; empty where none does."""
    known = (part.if_not_finite for part in parts if isinstance(part, ExplainsNonFinite))
    return next(filter(None, known), "")


def because(fault: str, part: object) -> str:
    """The fault, and the remedy that a scorer or embedder knows for numbers that are not finite."""
    known = remedies([part])
    return f"{fault} ({known})" if known else fault
