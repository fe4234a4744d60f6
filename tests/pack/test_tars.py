import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import PackConfig, pack

Picture = Callable[..., bytes]


def read_all(path: Path) -> dict[str, Any]:
    (batch,) = MdsSource(path, batch_size=1000, shuffle=False, drop_last=False)
    return batch


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_tars(tmp_path: Path, picture: Picture, suffix: str) -> None:
    first = write_tar(
        tmp_path / f"a.{suffix}",
        {
            "./x/0.jpg": picture(1, "JPEG"),
            "./x/0.txt": b"first\n",
            "./x/1.PNG": picture(2),
            "./x/1.json": b'{"caption": "second", "n": 3}',
            "./x/1.cls": b"7",
        },
    )
    second = write_tar(
        tmp_path / f"b.{suffix}", {"x/0.webp": picture(3, "WEBP"), "x/0.txt": b"third"}
    )
    tally = pack(PackConfig((first, second), tmp_path / "out"))
    batch = read_all(tmp_path / "out")
    assert str(tally) == "3 written, 0 skipped"
    assert batch["caption"] == ["first", "second", "third"]
    assert batch["key"] == [f"a.{suffix}/x/0", f"a.{suffix}/x/1", f"b.{suffix}/x/0"]
    assert batch["image"] == [picture(1, "JPEG"), picture(2), picture(3, "WEBP")]


def test_bad_examples_of_tars(tmp_path: Path, picture: Picture) -> None:
    good = picture(1)
    tar = write_tar(
        tmp_path / "a.tar",
        [
            *[("ok.png", good), ("ok.txt", b"fine")],
            ("silent.png", good),
            ("alone.txt", b"c"),
            *[("latin.png", good), ("latin.txt", "ä".encode("latin-1"))],
            *[("list.png", good), ("list.json", b"[1]")],
            *[("broken.png", good), ("broken.json", b"{")],
            *[("many.png", good), ("many.json", b'{"caption": ["a", "b"]}')],
            *[("ok.png", good), ("ok.txt", b"fine")],
        ],
    )
    tally = pack(PackConfig((tar,), tmp_path / "out", max_skipped_fraction=0.95))
    assert read_all(tmp_path / "out")["caption"] == ["fine"]
    assert tally.skipped == {
        "no caption": 1,
        "no .txt or .json beside it": 1,
        "no picture beside it": 1,
        "text not in UTF-8": 1,
        "not a JSON object": 2,
        "duplicate": 1,
    }


@pytest.mark.parametrize("cut", [700, 1024, 1800, 5 * 512 + 1024])
def test_a_damaged_tar_is_an_error(tmp_path: Path, picture: Picture, cut: int) -> None:
    members = {"a.txt": b"c", "a.png": picture(1) + bytes(400), "b.txt": b"c", "b.png": picture(2)}
    tar = write_tar(tmp_path / "a.tar", members)
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tar"):
        pack(PackConfig((tar,), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_damaged_header_and_joined_tars_are_errors(tmp_path: Path, picture: Picture) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        {"a.txt": b"c", "a.png": picture(1), "b.txt": b"c", "b.png": picture(2)},
    )
    whole = tar.read_bytes()
    tar.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="cat"):
        pack(PackConfig((tar,), tmp_path / "out"))
    damaged = bytearray(whole)
    damaged[whole.index(b"b.txt") + 150] ^= 0xFF
    tar.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.tar"):
        pack(PackConfig((tar,), tmp_path / "out"))
