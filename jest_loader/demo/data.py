"""The demo's data sets, packed to MDS: a curated one, an uncurated one, a held-out style."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.demo.icons import FAMILIES, FONTS, ICON_SIZE, Icon, render
from jest_loader.files import save_json
from jest_loader.pack import write_mds

HELD_OUT = FAMILIES["Phosphor"]
CURATED = FAMILIES["Codicons"] + FAMILIES["Elusive"]
UNCURATED = [font for font in FONTS if font not in HELD_OUT + CURATED]

NEAR_DUPLICATE = 0.97
"""Cosine of two icons' ink from which on they count as one drawing."""

_NAMED_BY = 2  # Families besides the held-out one that must know a held-out name.
_BLOCK = 4096
_COLUMNS = {
    "image": f"ndarray:uint8:{ICON_SIZE},{ICON_SIZE}",
    "caption": "str",
    "font": "str",
    "shuffled": "int",
}
_STYLE = re.compile(r" (bold|fill|light|thin|duotone|line|outline)$")


@dataclass(frozen=True)
class DemoData:
    """The folders of the packed sets, and what is in them.

    No icon is in two sets, nor another drawing of it: a family of fonts is in one set alone, and
    near-duplicates between sets are left out.

    Args:
        curated: Icons with their own names; the reference is trained on it.
        uncurated: The icons that the learner is trained on, after a share of their captions was
            shuffled among them.
        held_out: Icons of a style that is in neither, named by words that several families know.
        noise_fraction: The share of shuffled captions.
        num_examples: Rows of each set by name.
        num_classes: Distinct captions of the held-out set.
    """

    curated: Path
    uncurated: Path
    held_out: Path
    noise_fraction: float
    num_examples: dict[str, int]
    num_classes: int


def prepare(folder: Path, *, noise_fraction: float, seed: int = 0) -> DemoData:
    """Render and pack the three sets into ``folder``, unless they are there already.

    Raises:
        ValueError: if ``folder`` holds sets with another noise fraction or seed, or of other fonts.
    """
    manifest = folder / "demo.json"
    settings = data_settings(noise_fraction, seed)
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found["settings"] != settings:
            raise ValueError(
                f"{folder} holds a demo set with {found['settings']}, not {settings}; "
                "choose another folder, or delete this one"
            )
        return _described(folder, found)
    curated, uncurated, held_out = split()
    captions, shuffled = _shuffle_captions(uncurated, noise_fraction, seed)
    sets = {
        "curated": _rows(curated),
        "uncurated": _rows(uncurated, captions, shuffled),
        "held_out": _rows(held_out, [_without_style(icon.caption) for icon in held_out]),
    }
    sizes = {
        name: write_mds(folder / name, _COLUMNS, rows, overwrite=True)
        for name, rows in sets.items()
    }
    found = {
        "settings": settings,
        "num_examples": sizes,
        "num_classes": len({_without_style(icon.caption) for icon in held_out}),
    }
    save_json(manifest, found)
    return _described(folder, found)


def data_settings(noise_fraction: float, seed: int) -> dict[str, Any]:
    """What the sets depend on, as JSON values."""
    fonts = {"curated": CURATED, "uncurated": UNCURATED, "held_out": HELD_OUT}
    return {"noise_fraction": noise_fraction, "seed": seed, **fonts}


def split() -> tuple[list[Icon], list[Icon], list[Icon]]:
    """The curated, the uncurated and the held-out icons, with their makers' captions."""
    curated, uncurated, held_out = (list(render(fonts)) for fonts in (CURATED, UNCURATED, HELD_OUT))
    knowing = defaultdict(set)
    for icon in (*curated, *uncurated):
        knowing[_without_style(icon.caption)].add(_FAMILY[icon.font])
    named = [icon for icon in held_out if len(knowing[_without_style(icon.caption)]) >= _NAMED_BY]
    ink_of_uncurated = _ink(uncurated)
    curated = _unlike(curated, ink_of_uncurated)
    return curated, uncurated, _unlike(named, np.concatenate([ink_of_uncurated, _ink(curated)]))


_FAMILY = {font: family for family, fonts in FAMILIES.items() for font in fonts}


def _unlike(icons: list[Icon], others: NDArray[np.float32]) -> list[Icon]:
    """Those of the icons that are no near-duplicates of the others, given by their ink."""
    ink, nearest = _ink(icons), np.zeros(len(icons), np.float32)
    for start in range(0, len(others), _BLOCK):
        nearest = np.maximum(nearest, (ink @ others[start : start + _BLOCK].T).max(axis=1))
    return [icon for icon, cosine in zip(icons, nearest, strict=True) if cosine < NEAR_DUPLICATE]


def _ink(icons: Sequence[Icon]) -> NDArray[np.float32]:
    """Fp32 [icons, pixels], each of unit norm."""
    ink = np.stack([icon.pixels for icon in icons]).reshape(len(icons), -1).astype(np.float32)
    unit: NDArray[np.float32] = ink / np.linalg.norm(ink, axis=1, keepdims=True)
    return unit


def _described(folder: Path, found: dict[str, Any]) -> DemoData:
    return DemoData(
        curated=folder / "curated",
        uncurated=folder / "uncurated",
        held_out=folder / "held_out",
        noise_fraction=found["settings"]["noise_fraction"],
        num_examples=found["num_examples"],
        num_classes=found["num_classes"],
    )


def _shuffle_captions(
    icons: list[Icon], fraction: float, seed: int
) -> tuple[list[str], list[bool]]:
    """The captions with ``fraction`` of them dealt out anew among each other, and which ones."""
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(random.random(len(icons)) < fraction)
    captions = [icon.caption for icon in icons]
    shuffled = [False] * len(icons)
    for row, other in zip(rows, random.permutation(rows), strict=True):
        captions[row] = icons[other].caption
        shuffled[row] = True
    return captions, shuffled


def _rows(
    icons: list[Icon], captions: list[str] | None = None, shuffled: list[bool] | None = None
) -> Iterator[dict[str, Any]]:
    for index, icon in enumerate(icons):
        yield {
            "image": icon.pixels,
            "caption": icon.caption if captions is None else captions[index],
            "font": icon.font,
            "shuffled": int(shuffled[index]) if shuffled is not None else 0,
        }


def _without_style(caption: str) -> str:
    """``bell fill`` as ``bell``: the suffix tells the style, not what is shown."""
    return _STYLE.sub("", caption)
