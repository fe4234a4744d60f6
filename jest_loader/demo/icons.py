"""The demo's data: real icons and their names, rendered from the package ``qtawesome``.

Nothing is synthetic. The fonts are by unrelated teams under OFL, Apache-2.0, MIT and CC-BY-4.0
licences; they are read from the installed package and never copied into this project.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

ICON_SIZE = 32
_MARGIN = 2
_RENDER_SIZE = 64

# The charmaps carry versions in their names; the short name is what they start with.
FONTS = {
    "phosphor": "phosphor-",
    "remix": "remixicon-",
    "fa6-solid": "fontawesome6-solid-",
    "fa6-regular": "fontawesome6-regular-",
    "fa6-brands": "fontawesome6-brands-",
    "fa5-solid": "fontawesome5-solid-",
    "fa5-regular": "fontawesome5-regular-",
    "fa5-brands": "fontawesome5-brands-",
    "mdi6": "materialdesignicons6-",
    "mdi5": "materialdesignicons5-",
    "codicon": "codicon-",
    "elusive": "elusiveicons-",
}

FAMILIES = {
    "Phosphor": ["phosphor"],
    "Remix": ["remix"],
    "Font Awesome": [
        "fa6-solid", "fa6-regular", "fa6-brands", "fa5-solid", "fa5-regular", "fa5-brands",
    ],
    "Material Design": ["mdi6", "mdi5"],
    "Codicons": ["codicon"],
    "Elusive": ["elusive"],
}  # fmt: skip
"""The fonts of each team, whose releases and weights draw the same icons again."""


@dataclass(frozen=True)
class Icon:
    """One glyph.

    Args:
        font: A key of ``FONTS``.
        caption: Its name in words, as its makers wrote it.
        pixels: Uint8 [32, 32], white paper is 0 and full ink 255.
    """

    font: str
    caption: str
    pixels: NDArray[np.uint8]


def render(fonts: list[str]) -> Iterator[Icon]:
    """The glyphs of ``fonts`` in a fixed order, blank ones left out.

    Raises:
        ValueError: if qtawesome is not installed, or lacks one of the fonts.
    """
    folder = _font_folder()
    for font in fonts:
        yield from _render_font(font, folder)


def _render_font(font: str, folder: Path) -> Iterator[Icon]:
    from PIL import ImageFont

    charmap = _only(folder, f"{FONTS[font]}*charmap*.json")
    name = charmap.name.replace("-charmap", "").removesuffix(".json")
    truetype = ImageFont.truetype(str(folder / f"{name}.ttf"), size=_RENDER_SIZE)
    for glyph, code in sorted(json.loads(charmap.read_text()).items()):
        pixels = _draw(chr(int(code, 16)), truetype)
        if pixels is not None:
            yield Icon(font, _words(glyph), pixels)


def _draw(character: str, truetype: "FreeTypeFont") -> NDArray[np.uint8] | None:
    """The glyph scaled to fill the icon, since fonts differ in margins; None if blank."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (2 * _RENDER_SIZE, 2 * _RENDER_SIZE))
    ImageDraw.Draw(canvas).text(
        (_RENDER_SIZE, _RENDER_SIZE), character, fill=255, font=truetype, anchor="mm"
    )
    ink = canvas.getbbox()
    if ink is None:
        return None
    glyph = canvas.crop(ink)
    glyph.thumbnail((ICON_SIZE - 2 * _MARGIN, ICON_SIZE - 2 * _MARGIN), Image.Resampling.BOX)
    icon = Image.new("L", (ICON_SIZE, ICON_SIZE))
    icon.paste(glyph, ((ICON_SIZE - glyph.width) // 2, (ICON_SIZE - glyph.height) // 2))
    return np.asarray(icon)


def _words(glyph: str) -> str:
    """``arrow-up-2`` as ``arrow up 2``."""
    return re.sub(r"[^a-z0-9]+", " ", glyph.lower()).strip()


def _font_folder() -> Path:
    package = find_spec("qtawesome")
    if package is None or package.origin is None:
        raise ValueError(
            "the demo renders icons from the package qtawesome; pip install 'jest-loader[demo]'"
        )
    return Path(package.origin).parent / "fonts"


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(
            f"qtawesome must have one {pattern} in its fonts, found {len(found)}; install 1.4"
        )
    return found[0]
