import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(number: int, image_format: str = "PNG") -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, image_format)
    return file.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Encoded bytes of a picture, another for each number."""
    return encoded


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve pictures, 0.png to 11.webp, in three formats."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        image_format = ("PNG", "JPEG", "WEBP")[number % 3]
        name = f"{number}.{image_format.lower()}"
        (folder / name).write_bytes(encoded(number * 20, image_format))
    return folder
