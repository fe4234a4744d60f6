"""Which tars are read: folders, patterns, braces and lists of them."""

import re
from collections.abc import Iterator, Sequence
from glob import glob
from itertools import islice
from os import PathLike, fspath
from pathlib import Path

from jest_loader.checks import shown

Urls = str | PathLike[str] | Sequence[str | PathLike[str]]

_MOST_TARS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tar.xz")


def tars_at(urls: Urls) -> list[Path]:
    """The tars in order, each once.

    Args:
        urls: A folder, whose ``*.tar`` are read in the order of their names; a file; a pattern with
            ``*``, ``?`` or ``[]``; braces, as in ``{00000..01023}.tar`` and ``{a,b}.tar``; or a
            list of these.

    Raises:
        ValueError: if there are none, one is not there, is compressed, comes twice, or is remote.
    """
    given = [urls] if isinstance(urls, str | PathLike) else list(urls)
    found = [path for one in given for path in _tars(fspath(one))]
    if not found:
        raise ValueError("urls must name at least one tar, got an empty list; name a folder")
    seen: dict[Path, Path] = {}
    for path in found:
        before = seen.setdefault(path.resolve(), path)
        if before is not path:
            raise ValueError(
                f"each tar must come once, but {shown(path)} comes twice"
                + ("" if before == path else f" (also as {shown(before)})")
                + "; its examples would be trained on twice, so name it once"
            )
    return found


def _tars(url: str) -> Iterator[Path]:
    if re.match(r"[a-z][a-z0-9+.-]*:", url):
        raise ValueError(
            f"tars must be local files, got {shown(url)}; fetch them first, as with "
            "`aws s3 sync` or `huggingface-cli download`"
        )
    if Path(url).exists():
        yield from _in_place(Path(url))
        return
    names = list(islice(expanded(url), _MOST_TARS + 1))
    if len(names) > _MOST_TARS:
        raise ValueError(f"urls must name at most {_MOST_TARS} tars, got more by {shown(url)}")
    for name in names:
        if any(letter in name for letter in "*?["):
            matches = sorted(glob(name, recursive=True))
            if not matches:
                raise ValueError(f"no file fits {shown(name)}; look at the path")
            for match in matches:
                yield from _in_place(Path(match))
        elif Path(name).exists():
            yield from _in_place(Path(name))
        else:
            raise ValueError(f"tars must be there, but {shown(name)} is not; look at the path")


def _in_place(path: Path) -> Iterator[Path]:
    """The tars of a folder, or the file itself."""
    if not path.is_dir():
        if path.name.lower().endswith(_PACKED):
            raise compressed(str(path))
        yield path
        return
    tars = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
    if not tars:
        packed = [file for file in path.iterdir() if file.name.lower().endswith(_PACKED)]
        if packed:
            raise compressed(str(min(packed)))
        raise ValueError(f"{shown(path)} must hold tars (*.tar), but holds none; look at the path")
    yield from tars


def expanded(text: str) -> Iterator[str]:
    """What braces stand for: ``{08..10}`` for 08, 09 and 10, ``{a,b}`` for a and b."""
    braces = next((b for b in _BRACES.finditer(text) if _is_list(b[1])), None)
    if braces is None:
        yield text
        return
    before, after = text[: braces.start()], text[braces.end() :]
    for choice in _choices(braces[1]):
        yield from expanded(before + choice + after)


def _is_list(inside: str) -> bool:
    return "," in inside or _RANGE.fullmatch(inside) is not None


def _choices(inside: str) -> Iterator[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        yield from inside.split(",")
        return
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise ValueError(f"a range in braces must not go down, got {{{inside}}}")
    width = len(found[1]) if found[1].startswith("0") else 0
    yield from (f"{number:0{width}d}" for number in range(first, last + 1))


def compressed(name: str) -> ValueError:
    """The error for a compressed tar."""
    return ValueError(
        f"tars must not be compressed, since examples are read where they lie, but {shown(name)} "
        "is; decompress it (gzip -d, zstd -d), or make shards of it with jest-loader pack"
    )
