"""Gumbel noise as a function of (seed, epoch, super-batch, chunk, candidate).

No draw depends on an earlier one, so reading ahead, resuming or splitting the candidates over
devices cannot change which candidates are drawn.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
STEP = 2.0**-53
SMALLEST = STEP / 2  # Half a step of the 53-bit grid: log(0) must not occur.
_MASK = (1 << 64) - 1


def fold(*parts: int) -> int:
    """One 64-bit key from several integers; it depends on each of them and on their order."""
    key = 0
    for part in parts:
        key = _mix((key + GOLDEN + part) & _MASK)
    return key


class Share(NamedTuple):
    """The numbers of a rank's candidates: ``first``, ``first + stride``, and so on."""

    first: int = 0
    stride: int = 1


ALL = Share()


def gumbel(
    key: int,
    num_candidates: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    share: Share = ALL,
) -> Tensor:
    """Standard Gumbel noise, [num_candidates], from the same bits on every device.

    The bits are SplitMix64 at counter ``key + candidate`` (Steele, Lea and Flood, 2014). An
    exponential variate ``-log1p(-v)`` keeps full relative precision near v = 0, where the largest
    noise comes from. A rank that holds a ``share`` of the candidates draws the noise of its own.
    """
    start = share.first + 1
    index = torch.arange(start, start + num_candidates * share.stride, share.stride, device=device)
    bits = _mix_tensor(index * signed(GOLDEN) + signed(key))
    uniform = _shift_right(bits, 11).to(dtype) * STEP
    exponential = -torch.log1p(-uniform.clamp(SMALLEST, largest_below_one(dtype)))
    return -exponential.log()


def perturbed(logits: Tensor, key: int, *, gain: float = 1.0, share: Share = ALL) -> Tensor:
    """The logits times ``gain``, with their noise; minus infinity where that is not finite.

    Args:
        logits: Floating [B], of this rank's candidates.
        key: Chooses the noise.
        gain: Factor on the logits.
        share: Which of all ranks' candidates these are.
    """
    finite = drawable(logits * gain)
    noise = gumbel(key, len(finite), dtype=finite.dtype, device=finite.device, share=share)
    return finite + noise


def drawable(logits: Tensor) -> Tensor:
    """The logits in fp32 or fp64, with minus infinity, which is never drawn, if not finite."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.where(torch.isfinite(logits), -torch.inf)


def largest_below_one(dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` below 1."""
    return 1.0 - torch.finfo(dtype).eps / 2


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * MIX_2) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * signed(MIX_1)
    value = (value ^ _shift_right(value, 27)) * signed(MIX_2)
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's ``>>`` on int64 copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def signed(value: int) -> int:
    """The same 64 bits as a signed integer."""
    return value - (1 << 64) if value >= (1 << 63) else value
