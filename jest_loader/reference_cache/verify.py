"""Whether a cache is what was written."""

from collections.abc import Mapping
from pathlib import Path

from jest_loader.reference_cache.format import (
    Manifest,
    check_chunk_sizes,
    check_file,
    read_manifest,
)
from jest_loader.reference_cache.identity import check_identity


def verify(path: str | Path, *, expect: Mapping[str, str] | None = None) -> Manifest:
    """Read all of a cache and compare it with the checksums in its manifest.

    Args:
        path: Its folder.
        expect: What it must have been built from, as for ``CachedReference.open``.

    Returns:
        What the cache holds.

    Raises:
        ValueError: if a file is not as it was written, or the cache was built from something else.
    """
    manifest = read_manifest(path)
    check_identity(path, manifest.identity, expect or {})
    for name, files in check_chunk_sizes(path, manifest).items():
        for file, expected in zip(files, manifest.checksums[name], strict=True):
            check_file(path, file, expected)
    return manifest
