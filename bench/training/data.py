"""Real data for ``bench.training``: icons of some 200 sets and their names, as MDS shards.

The sets are those of the npm package ``@iconify/json``, which is read from its tarball; nothing of
it is part of this project. Sets whose licence forbids commercial use, or is a GPL, are left out, as
are icons that are hidden or blank. Captions are a few words, so this tests the selection of data,
not language.

    npm pack @iconify/json@2.2.535
    pip install resvg_py
    python -m bench.training.data --package iconify-json-*.tgz --out runs/icons

Writes into ``--out``:

- ``test``: whole sets that are not trained on, nor are sets of the same makers; those icons whose
  clean name at least ``--min-sets`` of the other sets have.
- ``curated``: carefully named sets with clean names (style words and sizes removed).
- ``uncurated_0``, ``uncurated_20``, ``uncurated_50``: all other sets and the curated ones, with
  their raw names, of which that share in percent was shuffled and marked. ``uncurated_clean``: the
  same with clean names.

Uncurated and curated icons that look like one of the test's (cosine of their ink on a 16 x 16
grid above 0.995) are left out. ``icons.json`` has the counts, sets, and licences.
"""

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.harness import parser_of, print_document
from jest_loader.pack import write_mds

SIZE = 32
TEST = ("lucide", "ph", "iconoir")
KIN = ("lucide-lab",)  # Drawn like a test set.
CURATED = ("tabler", "carbon", "bi")
NOISE_PERCENT = (0, 20, 50)
COLUMNS = {
    "image": f"ndarray:uint8:{SIZE},{SIZE}",
    "caption": "str",
    "set": "str",
    "shuffled": "int",
}
_SAME_INK = 0.995


@dataclass(frozen=True)
class Icon:
    """One picture.

    Args:
        prefix: Its set.
        raw: Its name in words, as its makers wrote it.
        clean: The same without the style words and sizes that the set says it uses.
        pixels: Uint8 [32, 32], white paper is 0 and black ink 255.
    """

    prefix: str
    raw: str
    clean: str
    pixels: NDArray[np.uint8]


def main() -> None:
    """Render and write all sets."""
    parser = parser_of(__doc__)
    parser.add_argument("--package", type=Path, required=True, help="the tarball of @iconify/json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--uncurated-size", type=int, help="rows of it, at random; all by default")
    parser.add_argument("--min-sets", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    collections, sets = read_package(arguments.package)
    with ProcessPoolExecutor(arguments.processes) as processes:
        icons = [icon for found in processes.map(render_set, sets) for icon in found]
    splits = split(icons, size=arguments.uncurated_size, min_sets=arguments.min_sets)
    rows = {name: write(arguments.out / name, part) for name, part in captioned(splits).items()}
    used = sorted({icon.prefix for part in splits.values() for icon in part})
    document = {
        "rows": rows,
        "classes": len({icon.clean for icon in splits["test"]}),
        "rendered": len(icons),
        "sets": {prefix: collections[prefix]["license"]["title"] for prefix in used},
    }
    (arguments.out / "icons.json").write_text(json.dumps(document, indent=1) + "\n")
    print_document({name: document[name] for name in ("rows", "classes", "rendered")})


def read_package(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the package says of each set, and the sets that may be used."""
    with tarfile.open(path) as package:
        members = {member.name: member for member in package}

        def load(name: str) -> dict[str, Any]:
            file = package.extractfile(members[name])
            assert file is not None, name
            found: dict[str, Any] = json.load(file)
            return found

        collections = load("package/collections.json")
        usable = [prefix for prefix, found in collections.items() if is_usable(found)]
        return collections, [load(f"package/json/{prefix}.json") for prefix in sorted(usable)]


def is_usable(collection: dict[str, Any]) -> bool:
    """Whether a set is shown to users and its licence lets anyone use it."""
    spdx = collection["license"].get("spdx", "")
    return not collection.get("hidden") and bool(spdx) and not re.search("GPL|NC", spdx)


def render_set(icon_set: dict[str, Any]) -> list[Icon]:
    """Its icons that are neither hidden nor blank."""
    found = []
    for name, icon in sorted(icon_set["icons"].items()):
        if icon.get("hidden"):
            continue
        box = {**{key: icon_set.get(key) for key in ("left", "top", "width", "height")}, **icon}
        pixels = render(box)
        if pixels is not None:
            clean = words(without_style(name, icon_set))
            found.append(Icon(icon_set["prefix"], words(name), clean or words(name), pixels))
    return found


def render(icon: dict[str, Any]) -> NDArray[np.uint8] | None:
    """The ink of an icon, uint8 [32, 32], black on white; None if there is hardly any."""
    import resvg_py

    left, top = icon.get("left") or 0, icon.get("top") or 0
    width, height = icon.get("width") or 16, icon.get("height") or 16
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="#000" width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body']}</svg>"
    )
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    except ValueError:  # A handful of sets hold what no renderer reads.
        return None
    paper = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("L"), dtype=np.uint8)
    ink = np.uint8(255) - paper
    return ink if ink.shape == (SIZE, SIZE) and ink.sum() > 255 else None


def without_style(name: str, icon_set: dict[str, Any]) -> str:
    """``calendar-add-24-filled`` as ``calendar-add``, by the set's own list of styles."""
    for suffix in sorted(icon_set.get("suffixes") or (), key=len, reverse=True):
        if suffix and name.endswith(f"-{suffix}"):
            name = name.removesuffix(f"-{suffix}")
            break
    for prefix in sorted(icon_set.get("prefixes") or (), key=len, reverse=True):
        if prefix and name.startswith(f"{prefix}-"):
            return name.removeprefix(f"{prefix}-")
    return name


def words(name: str) -> str:
    """``arrow-up-2`` as ``arrow up 2``."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def split(icons: Iterable[Icon], *, size: int | None, min_sets: int) -> dict[str, list[Icon]]:
    """The icons of ``test``, ``curated`` and ``uncurated``, which is in random order."""
    by_set = defaultdict(list)
    for icon in icons:
        by_set[icon.prefix].append(icon)
    held_out = [icon for prefix in TEST for icon in by_set.pop(prefix, [])]
    for prefix in KIN:
        by_set.pop(prefix, None)
    rest = [icon for prefix in sorted(by_set) for icon in by_set[prefix]]
    rest = [icon for icon, looks in zip(rest, look_alike(rest, held_out), strict=True) if not looks]
    shared = Counter(name for _, name in {(icon.prefix, icon.clean) for icon in rest})
    test = [icon for icon in held_out if shared[icon.clean] >= min_sets]
    # Shards are shuffled one by one: in the order of the sets, each would hold a few of them.
    order = np.random.default_rng(0).permutation(len(rest))[:size]
    uncurated = [rest[row] for row in order]
    return {
        "test": test,
        "curated": [i for i in rest if i.prefix in CURATED],
        "uncurated": uncurated,
    }


def look_alike(icons: list[Icon], others: list[Icon]) -> NDArray[np.bool_]:
    """Whether each icon's ink is nearly that of one of the others."""
    if not icons or not others:
        return np.zeros(len(icons), bool)
    theirs = ink_of(others)
    blocks = (ink_of(icons[start : start + 1024]) for start in range(0, len(icons), 1024))
    return np.concatenate([(block @ theirs.T).max(axis=1) > _SAME_INK for block in blocks])


def ink_of(icons: list[Icon]) -> NDArray[np.float32]:
    """Unit rows [icons, 256]: the ink on a 16 x 16 grid."""
    pixels = np.stack([icon.pixels for icon in icons]).astype(np.float32)
    grid = pixels.reshape(len(icons), 16, 2, 16, 2).mean(axis=(2, 4)).reshape(len(icons), -1)
    unit: NDArray[np.float32] = grid / np.linalg.norm(grid, axis=1, keepdims=True)
    return unit


def captioned(splits: dict[str, list[Icon]]) -> dict[str, list[tuple[Icon, bool]]]:
    """What is written: icons with their captions as ``raw``, and whether these were shuffled."""
    clean = {
        name: [(replace(icon, raw=icon.clean), False) for icon in splits[part]]
        for name, part in (
            ("test", "test"),
            ("curated", "curated"),
            ("uncurated_clean", "uncurated"),
        )
    }
    noisy = {
        f"uncurated_{percent}": shuffled(splits["uncurated"], percent / 100)
        for percent in NOISE_PERCENT
    }
    return clean | noisy


def shuffled(icons: list[Icon], fraction: float) -> list[tuple[Icon, bool]]:
    """The icons with ``fraction`` of their raw names dealt out anew among each other."""
    random = np.random.default_rng(0)
    rows = np.flatnonzero(random.random(len(icons)) < fraction)
    names = dict(zip(rows.tolist(), random.permutation(rows).tolist(), strict=True))
    return [
        (replace(icon, raw=icons[names.get(row, row)].raw), row in names)
        for row, icon in enumerate(icons)
    ]


def write(path: Path, icons: Iterable[tuple[Icon, bool]]) -> int:
    """Write a set; how many rows it has."""

    def rows() -> Iterator[dict[str, Any]]:
        for icon, was_shuffled in icons:
            yield {
                "image": icon.pixels,
                "caption": icon.raw,
                "set": icon.prefix,
                "shuffled": int(was_shuffled),
            }

    return write_mds(path, COLUMNS, rows(), overwrite=True)


if __name__ == "__main__":
    main()
