"""The codecs of an array, each asked first how much it would make of a chunk."""

import asyncio
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec, Codec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.codec_pipeline import BatchedCodecPipeline

from jest_loader.adapters.zarr.inflation import decoded, is_bounded, is_quick, most_bytes


def bound_decoding(array: "zarr.Array[Any]") -> None:
    """Let the array's chunks be decoded to no more than it declares."""
    metadata: Any = array.metadata
    codecs: list[Codec]
    if metadata.zarr_format == 2:
        num_items = prod(array.chunks)
        most = most_bytes(num_items, array.dtype)
        filters = tuple(_Filter(codec, most, num_items) for codec in metadata.filters or ())
        compressor = metadata.compressor and _Filter(metadata.compressor, most, num_items)
        codecs = [V2Codec(filters, compressor)]  # type: ignore[arg-type]
    else:
        codecs = [_bounded(codec) for codec in metadata.codecs]
    pipeline = BatchedCodecPipeline.from_codecs(codecs)
    object.__setattr__(array.async_array, "codec_pipeline", pipeline)  # It is frozen.


def _bounded(codec: Any) -> Codec:
    if isinstance(codec, ShardingCodec):
        inner, index = (tuple(map(_bounded, of)) for of in (codec.codecs, codec.index_codecs))
        return replace(codec, codecs=inner, index_codecs=index)
    if is_bounded(_name(codec)):
        return codec  # type: ignore[no-any-return]
    return _ToBytes(codec) if isinstance(codec, BytesBytesCodec) else _ToArray(codec)


def _name(codec: Any) -> str:
    name: str = codec.to_dict()["name"]
    return name.removeprefix("numcodecs.")


@dataclass(frozen=True)
class _Filter:
    """A codec of format 2."""

    codec: Any
    most: int
    num_items: int

    def decode(self, chunk: Any) -> Any:
        name = self.codec.codec_id
        if is_bounded(name):
            return self.codec.decode(chunk)
        found = decoded(name, memoryview(chunk).cast("B"), self.most, self.num_items)
        return self.codec.decode(chunk) if found is None else found


@dataclass(frozen=True)
class _ToBytes(BytesBytesCodec):
    """A compressor of format 3."""

    codec: BytesBytesCodec
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        found = await _decoded(self.codec, chunk_data, chunk_spec)
        if found is None:
            return await self.codec._decode_single(chunk_data, chunk_spec)
        return chunk_spec.prototype.buffer.from_bytes(found)


@dataclass(frozen=True)
class _ToArray(ArrayBytesCodec):
    """Text or bytes of format 3."""

    codec: ArrayBytesCodec
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        await _decoded(self.codec, chunk_data, chunk_spec)
        return await self.codec._decode_single(chunk_data, chunk_spec)


async def _decoded(codec: Any, chunk_data: Buffer, chunk_spec: ArraySpec) -> bytes | None:
    name, num_items = _name(codec), prod(chunk_spec.shape)
    most = most_bytes(num_items, chunk_spec.dtype.to_native_dtype())
    data = chunk_data.as_numpy_array().view(np.uint8).data
    if is_quick(name):
        return decoded(name, data, most, num_items)
    return await asyncio.to_thread(decoded, name, data, most, num_items)
