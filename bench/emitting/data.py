"""The shards that ``bench.emitting`` reads: synthetic photographs, captions and embeddings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.decoding import jpeg
from jest_loader.pack import write_mds
from jest_loader.pack.thumbnails import Thumbnails

SIZE, THUMBNAIL_SIZE = 224, 64
COLUMNS = {
    "jpg": "bytes",  # What "jpeg" columns hold, StreamingDataset would open with Pillow at once.
    "caption": "str",
    "image": "ndarray:float16:512",
    "text": "ndarray:float16:512",
}


def write(path: Path, width: int, height: int, num_rows: int, num_photos: int) -> dict[str, int]:
    """Pack rows that repeat some photographs, without and with thumbnails; mean sizes of JPEGs."""
    photos = [jpeg(width, height, seed) for seed in range(num_photos)]
    small = [*map(Thumbnails(THUMBNAIL_SIZE), photos)]
    random = np.random.default_rng(0)

    def rows(with_thumbnails: bool) -> Iterator[dict[str, Any]]:
        for row in range(num_rows):
            image, text = random.standard_normal((2, 512)).astype(np.float16)
            caption = f"a picture of something, number {row}"
            columns = {"caption": caption, "image": image, "text": text}
            if with_thumbnails:
                columns["thumbnail"] = small[row % num_photos]
            yield {"jpg": photos[row % num_photos], **columns}

    write_mds(path, COLUMNS, rows(with_thumbnails=False))
    write_mds(with_thumbnails(path), {**COLUMNS, "thumbnail": "bytes"}, rows(with_thumbnails=True))
    means = (sum(map(len, files)) // num_photos for files in (photos, small))
    return dict(zip(("image", "thumbnail"), means, strict=True))


def with_thumbnails(path: Path) -> Path:
    """The data set with thumbnails; forms that need none read the other, which is smaller."""
    return path.with_name(f"{path.name}_with_thumbnails")
