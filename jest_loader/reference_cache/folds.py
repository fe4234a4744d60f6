"""A cache of cross-fitted references: a cache of each, side by side.

fold-0/, fold-1/, ...   a reference cache each, of the same rows
folds.json              how many there are; written last
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

import numpy as np

from jest_loader.checks import shown, whole
from jest_loader.files import read_regular, save_json
from jest_loader.protocols import Embedder
from jest_loader.reference_cache.cached import CachedReference, LookUp
from jest_loader.reference_cache.format import FOLDS
from jest_loader.reference_cache.stored_rows import open_cache
from jest_loader.scoring.cross_fitted import CrossFitted
from jest_loader.seen import SEEN

_MOST_FOLDS = 1000
_ROWS = 1 << 20  # Looked at together.


def fold_path(path: Path, number: int) -> Path:
    """The folder of one of a cache's references."""
    return path / f"fold-{number}"


def fold_paths(path: str | Path) -> list[Path]:
    """The folders of a cache's references; of a cache of one reference, itself.

    Raises:
        ValueError: if it is of several and not whole, or damaged.
    """
    file = Path(path) / FOLDS
    if not file.exists():
        if fold_path(Path(path), 0).is_dir():
            raise ValueError(
                f"the cache of folds at {path} must be whole, but its building was stopped or is "
                "under way; the same command goes on where that stopped"
            )
        return [Path(path)]
    try:
        found = json.loads(read_regular(file, 1 << 16))
        number = whole("num_folds", found["num_folds"], 2, _MOST_FOLDS)
    except Exception as error:
        raise ValueError(
            f"{file} must say how many folds there are, but is damaged ({shown(repr(error))}); "
            "build the cache again, with overwrite"
        ) from error
    return [fold_path(Path(path), fold) for fold in range(number)]


def check_free_for_folds(path: Path, num_folds: int, *, overwrite: bool) -> None:
    """Raise ``ValueError`` unless a cache of so many folds can be built at ``path``, or goes on."""
    whole("the number of folds", num_folds, 2, _MOST_FOLDS)
    if (path / "zarr.json").exists():
        raise ValueError(
            f"{path} holds a cache of one reference, and cannot hold folds; choose another folder"
        )
    if overwrite:
        (path / FOLDS).unlink(missing_ok=True)
    elif (path / FOLDS).exists() and (found := len(fold_paths(path))) != num_folds:
        raise ValueError(
            f"{path} holds a cache of {found} folds, which cannot go on with {num_folds}; choose "
            "another folder, or set overwrite"
        )


def save_folds(path: Path, num_folds: int) -> None:
    """Say that the caches of all folds are there."""
    save_json(path / FOLDS, {"num_folds": num_folds})


def open_folds(
    path: str | Path,
    *,
    expect: Mapping[str, str] | None = None,
    trained_batch_size: int | None = None,
    **options: Unpack[LookUp[Embedder]],
) -> CrossFitted:
    """The references that ``jest-loader cache --folds`` wrote to ``path``, which score in turn.

    Args:
        path: Its folder.
        expect: As for ``CachedReference.open``, of each.
        trained_batch_size: As for ``CachedReference.open``, of each.
        options: As for ``CachedReference.open``.

    Raises:
        ValueError: as ``CachedReference.open``, or if there are no folds.
    """
    return CrossFitted(
        [
            CachedReference.open(
                fold, expect=expect, trained_batch_size=trained_batch_size, **options
            )
            for fold in fold_paths(path)
        ]
    )


def num_seen_by_all(path: str | Path) -> int:
    """How many rows all references were trained on, so that none can score them."""
    caches = [open_cache(fold, "embeddings", None) for fold in fold_paths(path)]
    num_rows = min(cache.manifest.num_rows for cache in caches)
    total = 0
    for first in range(0, num_rows, _ROWS):
        rows = np.arange(first, min(first + _ROWS, num_rows))
        seen = [cache.columns["seen"][rows] == SEEN for cache in caches]
        total += int(np.logical_and.reduce(seen).sum())
    return total
