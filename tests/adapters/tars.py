"""Tars for tests, as the real tools write them."""

import io
import tarfile
from pathlib import Path


def write_tar(path: Path, members, **options) -> Path:
    """A tar of (name, content) pairs, by Python's own module."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def example(number: int) -> dict[str, bytes]:
    """Members of one example in img2dataset's layout, told by its number."""
    return {
        f"{number:09d}.jpg": b"\xff\xd8" + bytes([number % 251]) * (700 + number % 9),
        f"{number:09d}.json": b'{"uid": "u%d", "n": %d, "caption": "in json %d"}'
        % (number, number, number),
        f"{number:09d}.txt": f"thing {number} ä".encode(),
    }


def write_shards(folder: Path, num_shards: int = 3, rows: int = 11) -> Path:
    """Shards of some rows each, numbered through."""
    folder.mkdir(exist_ok=True)
    for shard in range(num_shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        members = {name: c for n in numbers for name, c in example(n).items()}
        write_tar(folder / f"{shard:05d}.tar", members)
    return folder
