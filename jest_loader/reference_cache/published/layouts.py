"""Which files of a folder of published embeddings are a part."""

import re
from collections.abc import Iterator
from pathlib import Path

from jest_loader.checks import first_few, shown
from jest_loader.reference_cache.published.parts import FilePart
from jest_loader.reference_cache.published.stored import npy_array, npz_array

_NUMBERED = re.compile(r"(img_emb|text_emb|metadata)_([0-9]{1,9})\.(npy|parquet)")
_SUFFIXES = {"img_emb": "npy", "text_emb": "npy", "metadata": "parquet"}


def parts_at(path: Path, image: str, text: str) -> Iterator[FilePart]:
    """The parts of a folder, or of one .npz file, in the order of their numbers or names.

    Args:
        path: A folder of clip-retrieval, or of .npz files with parquet files beside them.
        image: Of .npz files, the array of the images' embeddings.
        text: The array of the texts' embeddings.

    Raises:
        ValueError: if there are none, or some files of a part are missing or damaged.
    """
    if path.suffix == ".npz" and path.is_file():
        yield _npz_part(path, image, text)
        return
    if not path.is_dir():
        raise ValueError(f"published embeddings must be a folder or an .npz file, got {path}")
    numbered = _numbered(path)
    if numbered:
        yield from _npy_parts(path, numbered)
        return
    archives = sorted(path.glob("*.npz"))
    if not archives:
        raise ValueError(
            f"{path} must hold img_emb_0.npy, text_emb_0.npy and metadata_0.parquet (also in "
            "folders img_emb, text_emb and metadata), or .npz files, but has neither; name their "
            "folder"
        )
    alone = {one.stem for one in path.glob("*.parquet")} - {one.stem for one in archives}
    if alone:
        raise ValueError(
            f"each parquet file of {path} must have its .npz file beside it, but "
            f"{shown(first_few(sorted(alone)))} have none; fetch those, or move the tables away"
        )
    for archive in archives:
        yield _npz_part(archive, image, text)


def _npz_part(path: Path, image: str, text: str) -> FilePart:
    table = path.with_suffix(".parquet")
    sides = npz_array(path, image), npz_array(path, text)
    return FilePart(*sides, table if table.exists() else None, str(path))


def _numbered(path: Path) -> dict[str, dict[int, Path]]:
    """The numbered files of clip-retrieval by what they hold, in the folder or in its own."""
    found: dict[str, dict[int, Path]] = {}
    for name, suffix in _SUFFIXES.items():
        for file in sorted([*path.glob(f"{name}_*"), *path.glob(f"{name}/{name}_*")]):
            match = _NUMBERED.fullmatch(file.name)
            if match is None or match[3] != suffix:
                continue
            files, number = found.setdefault(name, {}), int(match[2])
            if number in files:
                raise ValueError(
                    f"each part must be there once, but {files[number]} and {file} have one "
                    "number; move one away"
                )
            files[number] = file
    return found


def _npy_parts(path: Path, files: dict[str, dict[int, Path]]) -> Iterator[FilePart]:
    sides = {"img_emb", "text_emb"}
    wanted = {name: files.get(name, {}) for name in _SUFFIXES if name in sides | set(files)}
    numbers = sorted(set().union(*wanted.values()))
    for number in range(numbers[0], numbers[-1] + 1):
        for name, has in wanted.items():
            if number not in has:
                raise ValueError(
                    f"parts {numbers[0]} to {numbers[-1]} of {path} must all be there, but "
                    f"{name}_{number}.{_SUFFIXES[name]} is missing; fetch it, or move the parts "
                    "away that it separates"
                )
    for number in numbers:
        image, text = (wanted[name][number] for name in ("img_emb", "text_emb"))
        table = files.get("metadata", {}).get(number)
        yield FilePart(npy_array(image), npy_array(text), table, str(image))
