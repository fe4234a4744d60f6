"""The demo's data sets, packed to MDS: a curated one, an uncurated one, a held-out style."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jest_loader.demo.icons import FONTS, ICON_SIZE, Icon, render
from jest_loader.files import save_json
from jest_loader.pack import write_mds

HELD_OUT = ["phosphor"]
CURATED = ["remix", "fa6-solid", "fa6-regular", "elusive"]
UNCURATED = [font for font in FONTS if font not in HELD_OUT]

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

    Args:
        curated: Icons with their own names; the reference is trained on it.
        uncurated: All icons that are not held out, the curated ones too, after a share of the
            captions was shuffled among them.
        held_out: Icons of a style that is in neither, named by words that are.
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
        ValueError: if ``folder`` holds sets with another noise fraction or seed.
    """
    manifest = folder / "demo.json"
    settings = {"noise_fraction": noise_fraction, "seed": seed}
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found["settings"] != settings:
            raise ValueError(
                f"{folder} holds a demo set with {found['settings']}, not {settings}; "
                "choose another folder, or delete this one"
            )
        return _described(folder, found)
    curated, uncurated = list(render(CURATED)), list(render(UNCURATED))
    known = {_without_style(icon.caption) for icon in (*curated, *uncurated)}
    held_out = [icon for icon in render(HELD_OUT) if _without_style(icon.caption) in known]
    captions, shuffled = _shuffle_captions(uncurated, noise_fraction, seed)
    sets = {
        "curated": _rows(curated),
        "uncurated": _rows(uncurated, captions, shuffled),
        "held_out": _rows(held_out, [_without_style(icon.caption) for icon in held_out]),
    }
    sizes = {name: _pack(folder / name, rows) for name, rows in sets.items()}
    found = {
        "settings": settings,
        "num_examples": sizes,
        "num_classes": len({_without_style(icon.caption) for icon in held_out}),
    }
    save_json(manifest, found)
    return _described(folder, found)


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


def _pack(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    return write_mds(path, _COLUMNS, rows, overwrite=True)


def _without_style(caption: str) -> str:
    """``bell fill`` as ``bell``: the suffix tells the style, not what is shown."""
    return _STYLE.sub("", caption)
