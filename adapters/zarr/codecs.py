"""Codecs of Zarr arrays that only turn bytes into numbers and text.

Some run what a stranger wrote: ``pickle`` of numcodecs calls whatever the bytes name. Others make
as much of a chunk as it says itself, as ``json2``, ``msgpack2``, ``pcodec`` and ``zfpy`` do.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jest_loader.checks import shown

if TYPE_CHECKING:
    import zarr

_OF_FORMAT_3 = {
    "blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-bytes", "vlen-utf8",
    "zstd",
}  # fmt: skip
_OF_NUMCODECS = {
    "adler32", "astype", "base64", "bitround", "blosc", "bz2", "categorize", "crc32", "crc32c",
    "delta", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits",
    "quantize", "shuffle", "vlen-array", "vlen-bytes", "vlen-utf8", "zlib", "zstd",
}  # fmt: skip
ALLOWED = _OF_FORMAT_3 | _OF_NUMCODECS | {f"numcodecs.{name}" for name in _OF_NUMCODECS}


_MOST_ITEM_BYTES = 64  # Of the numbers that a filter makes, unless they are the array's own.


def check_codecs(name: str, array: "zarr.Array[Any]", path: str) -> None:
    """Raise ``ValueError`` unless reading the array ``name`` only decodes numbers and text."""
    for codec, settings in _codecs(array.metadata):
        if codec not in ALLOWED:
            raise ValueError(
                f"array {shown(repr(name))} in {path} must be stored with codecs that only decode, "
                f"got {shown(repr(codec))}, which may run what it reads or has no bounds; store it "
                "with another, such as zstd"
            )
        for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
            made = str(settings.get(key, ""))
            sizes = map(int, re.findall(r"\d{1,20}", made))
            if made != array.dtype.str and max(sizes, default=0) > _MOST_ITEM_BYTES:
                raise ValueError(
                    f"array {shown(repr(name))} in {path} must have filters to numbers of at most "
                    f"{_MOST_ITEM_BYTES} bytes, got {codec} to {shown(repr(made))}; write it again"
                )


def _codecs(metadata: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The names and settings of all codecs of an array, those within shards too."""
    if metadata.zarr_format == 2:
        found = (*(metadata.filters or ()), metadata.compressor)
        return [(codec.codec_id, codec.get_config()) for codec in found if codec is not None]
    return list(_settings([codec.to_dict() for codec in metadata.codecs]))


def _settings(codecs: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for codec in codecs:
        within = codec.get("configuration", {})
        yield codec["name"], within
        yield from _settings([*within.get("codecs", ()), *within.get("index_codecs", ())])
