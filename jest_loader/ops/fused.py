"""The arithmetic of ``plain`` as Triton kernels: a matrix product whose epilogue sums.

The logits of a tile of candidates with a tile of the chunk stay in registers: they are turned into
losses and summed over the chunk before they would be written anywhere. Only [2, B] sums reach
memory. Products accumulate in fp32; fp32 embeddings are multiplied as three TF32 products, which
keeps about the precision of fp32.
"""

from dataclasses import replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad
from triton.tools.tensor_descriptor import TensorDescriptor

from jest_loader.embeddings import Embeddings
from jest_loader.ops import noise
from jest_loader.ops.plain import Groups, detached, own_logits
from jest_loader.ops.tiles import Tiles, Work, tiles_for

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# The copy engine takes rows whose length is a multiple of 16 bytes.
_ROW_BYTES = 16

_LOG2_E = tl.constexpr(1.4426950408889634)
_LOWEST = tl.constexpr(-3.0e38)  # Finite, so that its distance to minus infinity is a number.
_LN_2 = tl.constexpr(0.6931471805599453)
# Factors 1 + exp(-|z|) are in (1, 2]. Scaled by 2^-1/2, a product of 128 is within 2^-64 and 2^64,
# so that many of a candidate's pairs share one logarithm.
_ROOT_HALF = tl.constexpr(0.7071067811865476)

_GOLDEN = tl.constexpr(noise.GOLDEN)
_MIX_1 = tl.constexpr(noise.MIX_1)
_MIX_2 = tl.constexpr(noise.MIX_2)
_STEP = tl.constexpr(noise.STEP)
_SMALLEST = tl.constexpr(noise.SMALLEST)
_BELOW_ONE = tl.constexpr(noise.largest_below_one(torch.float32))


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run there: on an NVIDIA GPU of Ampere or later, or interpreted."""
    if dtype not in _DTYPES:
        return False
    if triton.knobs.runtime.interpret:
        return True
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


class Pairs:
    """``plain.Pairs`` in kernels. It copies the embeddings once and makes no other large array.

    Args:
        embeddings: The embeddings of the B candidates, in fp16, bf16 or fp32.
        tiles: How the kernel cuts its work; None takes ``tiles_for``.
    """

    def __init__(self, embeddings: Embeddings, *, tiles: Tiles | None = None) -> None:
        self._tiles = tiles
        given = detached(embeddings)
        self._num_candidates, width = given.image.shape
        # Images then texts, so that one launch serves both directions.
        padding = -width % (_ROW_BYTES // given.image.element_size())
        stacked = torch.cat([given.image, given.text])
        self._stacked = pad(stacked, (0, padding)) if padding else stacked
        image, text = self._stacked[:, :width].split(self._num_candidates)
        self.embeddings = replace(given, image=image, text=text)
        self._scale = self._scalar(given.logit_scale)
        self._bias = self._scalar(0.0 if given.logit_bias is None else given.logit_bias)

    def own_logits(self) -> Tensor:
        """See ``plain.Pairs.own_logits``."""
        return own_logits(self.embeddings)

    def rows(self, chosen: Tensor) -> Tensor:
        """See ``plain.Pairs.rows``; the width is padded to what the copy engine takes."""
        return self._stacked.view(2, self._num_candidates, -1).index_select(1, chosen)

    def sigmoid_loss(self, chunk: Tensor, groups: Groups | None = None) -> Tensor:
        """See ``plain.Pairs.sigmoid_loss``; in fp32."""
        return self._over_pairs(chunk, groups, softmax=False).sum(dim=0)

    def softmax_normalisers(self, chunk: Tensor, groups: Groups | None = None) -> Tensor:
        """See ``plain.Pairs.softmax_normalisers``; in fp32."""
        return self._over_pairs(chunk, groups, softmax=True)

    def _over_pairs(self, chunk: Tensor, groups: Groups | None, *, softmax: bool) -> Tensor:
        chunk_size = chunk.shape[1]
        drawn = chunk.contiguous().flatten(0, 1)
        out = torch.empty(2, self._num_candidates, dtype=torch.float32, device=self._stacked.device)
        tiles = self._tiles or _tiles(self._stacked, chunk_size)
        grid = (triton.cdiv(self._num_candidates, tiles.candidates), 2)
        with torch.cuda.device_of(self._stacked):
            _sum_over_chunk[grid](
                TensorDescriptor.from_tensor(self._stacked, [tiles.candidates, tiles.width]),
                TensorDescriptor.from_tensor(drawn, [tiles.chunk, tiles.width]),
                self._scale,
                self._bias,
                None if groups is None else groups.candidates.contiguous(),
                None if groups is None else groups.chunk.contiguous(),
                out,
                self._num_candidates,
                chunk_size,
                self._stacked.shape[1],
                SOFTMAX=softmax,
                CANDIDATES=tiles.candidates,
                CHUNK=tiles.chunk,
                WIDTH=tiles.width,
                PRECISION="tf32x3" if self._stacked.dtype == torch.float32 else None,
                num_warps=tiles.num_warps,
                num_stages=tiles.num_stages,
            )
        return out

    def _scalar(self, value: float | Tensor) -> Tensor:
        device = self._stacked.device
        if isinstance(value, Tensor):
            return value.to(device, torch.float32)
        return torch.full((), value, dtype=torch.float32, device=device)


@cache
def _shared_bytes_and_name(device: torch.device) -> tuple[int, str]:
    """The most shared memory of a block on the device, and its name; 0 where it is interpreted."""
    if device.type != "cuda":
        return 0, ""
    properties = torch.cuda.get_device_properties(device)
    # torch's stubs lack the attribute.
    return getattr(properties, "shared_memory_per_block_optin", 0), properties.name


def _tiles(stacked: Tensor, chunk_size: int) -> Tiles:
    work = Work(len(stacked) // 2, chunk_size, stacked.element_size())
    return tiles_for(work, *_shared_bytes_and_name(stacked.device))


def perturbed(
    logits: Tensor, key: int, *, gain: float = 1.0, share: noise.Share = noise.ALL
) -> Tensor:
    """``noise.perturbed`` of logits in fp32, in one launch."""
    given = logits.contiguous()
    out = torch.empty_like(given)
    block = 1024
    with torch.cuda.device_of(out):
        _perturbed[(triton.cdiv(len(given), block),)](
            given,
            out,
            float(gain),
            noise.signed(key),
            len(given),
            share.first,
            share.stride,
            block,
        )
    return out


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _other_groups(logits, group, drawn_groups, column, chunk_size):
    """The logits with minus infinity at pairs of one group."""
    others = tl.load(drawn_groups + column, mask=column < chunk_size, other=0)
    return tl.where(group[:, None] == others[None, :], -float("inf"), logits)


@triton.jit
def _sum_over_chunk(
    stacked,  # [2 * num_candidates, width]: images, then texts
    drawn,  # [2 * chunk_size, width]: the chunk's images, then its texts
    scale_pointer,
    bias_pointer,
    groups,  # int64 [num_candidates], or None
    drawn_groups,  # int64 [chunk_size], or None
    out,  # float32 [2, num_candidates]
    num_candidates,
    chunk_size,
    width,
    SOFTMAX: tl.constexpr,
    CANDIDATES: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of candidates in one direction against the whole chunk; logits in base 2.

    Rows past the end of a half belong to the other half or are zeros: a bias of minus infinity
    masks their columns, and the store's mask their results. Pairs of equal groups are masked by
    logits of minus infinity.
    """
    direction = tl.program_id(1)
    row = tl.program_id(0) * CANDIDATES
    first = direction * num_candidates + row
    first_other = (1 - direction) * chunk_size
    scale = tl.load(scale_pointer) * _LOG2_E
    bias = tl.load(bias_pointer) * _LOG2_E
    total = tl.zeros([CANDIDATES], tl.float32)
    highest = tl.full([CANDIDATES], -float("inf"), tl.float32)
    rows = row + tl.arange(0, CANDIDATES)
    if groups is not None:
        group = tl.load(groups + rows, mask=rows < num_candidates, other=0)
        highest = tl.full([CANDIDATES], _LOWEST, tl.float32)  # A tile may be masked as a whole.
    # Flattened, the loads of the next tile are under way during this one's epilogue (on Hopper;
    # before it the compiler does not load ahead through descriptors).
    for start in tl.range(0, chunk_size, CHUNK, flatten=True):
        products = tl.zeros([CANDIDATES, CHUNK], tl.float32)
        for k in tl.range(0, width, WIDTH):
            candidates = stacked.load([first, k])
            others = drawn.load([first_other + start, k])
            products = tl.dot(candidates, others.T, products, input_precision=PRECISION)
        column = start + tl.arange(0, CHUNK)
        column_bias = tl.where(column < chunk_size, bias, -float("inf"))
        logits = products * scale + column_bias[None, :]
        if groups is not None:
            logits = _other_groups(logits, group, drawn_groups, column, chunk_size)
        if SOFTMAX:
            higher = tl.maximum(highest, tl.max(logits, axis=1))
            total *= tl.exp2(highest - higher)
            total += tl.sum(tl.exp2(logits - higher[:, None]), axis=1)
            highest = higher
        else:
            factors = tl.exp2(-tl.abs(logits)) * _ROOT_HALF + _ROOT_HALF
            total += tl.sum(tl.maximum(logits, 0.0), axis=1)
            if CHUNK > 128:
                one, other = tl.split(tl.reshape(factors, [CANDIDATES, CHUNK // 2, 2]))
                total += tl.log2(tl.reduce(one, 1, _multiply))
                total += tl.log2(tl.reduce(other, 1, _multiply))
            else:
                total += tl.log2(tl.reduce(factors, 1, _multiply))
            total += 0.5 * CHUNK
    if SOFTMAX:
        total = highest + tl.log2(total)
    tl.store(out + direction * num_candidates + rows, total * _LN_2, mask=rows < num_candidates)


@triton.jit(do_not_specialize=["key", "first", "stride"])
def _perturbed(
    logits,
    out,
    gain,
    key: tl.int64,
    num_candidates,
    first: tl.int64,
    stride: tl.int64,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = index.to(tl.int64) * stride + first
    bits = (number + 1).to(tl.uint64) * _GOLDEN + key.to(tl.uint64)
    bits = (bits ^ (bits >> 30)) * _MIX_1
    bits = (bits ^ (bits >> 27)) * _MIX_2
    bits = bits ^ (bits >> 31)
    uniform = (bits >> 11).to(tl.float32) * _STEP
    uniform = tl.minimum(tl.maximum(uniform, _SMALLEST), _BELOW_ONE)
    # log1p(-u): the quotient undoes the rounding of 1 - u (Kahan).
    rest = 1.0 - uniform
    ratio = tl.where(rest == 1.0, 1.0, uniform / (1.0 - rest))
    exponential = tl.where(rest == 1.0, uniform, -tl.log(rest) * ratio)
    scaled = tl.load(logits + index, mask=index < num_candidates, other=0.0) * gain
    # Of what is not finite the magnitude is not below infinity; NaN is below nothing.
    finite = tl.where(tl.abs(scaled) < float("inf"), scaled, -float("inf"))
    tl.store(out + index, finite - tl.log(exponential), mask=index < num_candidates)
