"""Which tars are read."""

from pathlib import Path

from jest_loader.adapters.blocks.paths import FileKind
from jest_loader.checks import shown

_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tar.xz")


def compressed(name: str) -> ValueError:
    """The error for a compressed tar."""
    return ValueError(
        f"tars must not be compressed, since examples are read where they lie, but {shown(name)} "
        "is; decompress it (gzip -d, zstd -d), or make shards of it with jest-loader pack"
    )


def _check(path: Path) -> None:
    if path.name.lower().endswith(_PACKED):
        raise compressed(str(path))


TARS = FileKind("tar", "tars", ".tar", _check)
