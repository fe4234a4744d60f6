"""Codecs of Zarr arrays that only turn bytes into numbers and text.

Some run what a stranger wrote: ``pickle`` of numcodecs calls whatever the bytes name.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr

_OF_FORMAT_3 = {
    "blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-bytes", "vlen-utf8",
    "zstd",
}  # fmt: skip
_OF_NUMCODECS = {
    "adler32", "astype", "base64", "bitround", "blosc", "bz2", "categorize", "crc32", "crc32c",
    "delta", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma",
    "msgpack2", "packbits", "pcodec", "quantize", "shuffle", "vlen-array", "vlen-bytes",
    "vlen-utf8", "zfpy", "zlib", "zstd",
}  # fmt: skip
ALLOWED = _OF_FORMAT_3 | _OF_NUMCODECS | {f"numcodecs.{name}" for name in _OF_NUMCODECS}


def check_codecs(name: str, array: "zarr.Array[Any]", path: str) -> None:
    """Raise ``ValueError`` unless reading the array ``name`` only decodes numbers and text."""
    for codec in _codecs(array.metadata):
        if codec not in ALLOWED:
            raise ValueError(
                f"array {name!r} in {path} must be stored with codecs that only decode, got "
                f"{codec!r}, which may run what it reads; store it with another, such as zstd"
            )


def _codecs(metadata: Any) -> list[str]:
    """The names of all codecs of an array, those within shards too."""
    if metadata.zarr_format == 2:
        found = (*(metadata.filters or ()), metadata.compressor)
        return [codec.codec_id for codec in found if codec is not None]
    return list(_names([codec.to_dict() for codec in metadata.codecs]))


def _names(codecs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        within = codec.get("configuration", {})
        yield from _names([*within.get("codecs", ()), *within.get("index_codecs", ())])
