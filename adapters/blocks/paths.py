"""Which files are read: folders, patterns, braces and lists of them."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from os import PathLike, fspath
from pathlib import Path

from jest_loader.checks import shown

Urls = str | PathLike[str] | Sequence[str | PathLike[str]]

_MOST_FILES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


@dataclass(frozen=True)
class FileKind:
    """Files of one format.

    Args:
        one: What messages call a file, as in "tar".
        several: What they call several, as in "tars".
        suffix: How their names end in a folder, as in ".tar".
        check: Raises ``ValueError`` for a file of another format that is taken for one of these.
    """

    one: str
    several: str
    suffix: str
    check: Callable[[Path], None] = lambda path: None

    def at(self, urls: Urls) -> list[Path]:
        """The files in order, each once.

        Args:
            urls: A folder, whose files are read in the order of their names; a file; a pattern with
                ``*``, ``?`` or ``[]``; braces, as in ``{00000..01023}.tar`` and ``{a,b}.tar``; or a
                list of these.

        Raises:
            ValueError: if there are none, one is not there, is refused, comes twice, or is remote.
        """
        given = [urls] if isinstance(urls, str | PathLike) else list(urls)
        found = [path for one in given for path in self._files(fspath(one))]
        if not found:
            raise ValueError(
                f"urls must name at least one {self.one}, got an empty list; name a folder"
            )
        seen: dict[Path, Path] = {}
        for path in found:
            before = seen.setdefault(path.resolve(), path)
            if before is not path:
                raise ValueError(
                    f"each {self.one} must come once, but {shown(path)} comes twice"
                    + ("" if before == path else f" (also as {shown(before)})")
                    + "; its examples would be trained on twice, so name it once"
                )
        return found

    def _files(self, url: str) -> Iterator[Path]:
        if re.match(r"[a-z][a-z0-9+.-]*:", url):
            raise ValueError(
                f"{self.several} must be local files, got {shown(url)}; fetch them first, as with "
                "`aws s3 sync` or `huggingface-cli download`"
            )
        if Path(url).exists():
            yield from self._in_place(Path(url))
            return
        names = list(islice(expanded(url), _MOST_FILES + 1))
        if len(names) > _MOST_FILES:
            raise ValueError(
                f"urls must name at most {_MOST_FILES} {self.several}, got more by {shown(url)}"
            )
        for name in names:
            if any(letter in name for letter in "*?["):
                matches = sorted(glob(name, recursive=True))
                if not matches:
                    raise ValueError(f"no file fits {shown(name)}; look at the path")
                for match in matches:
                    yield from self._in_place(Path(match))
            elif Path(name).exists():
                yield from self._in_place(Path(name))
            else:
                raise ValueError(
                    f"{self.several} must be there, but {shown(name)} is not; look at the path"
                )

    def _in_place(self, path: Path) -> Iterator[Path]:
        """The files of a folder, or the file itself."""
        if not path.is_dir():
            self.check(path)
            yield path
            return
        files = sorted(
            file for file in path.glob(f"*{self.suffix}") if not file.name.startswith(".")
        )
        if not files:
            for file in sorted(path.iterdir()):
                self.check(file)
            raise ValueError(
                f"{shown(path)} must hold {self.several} (*{self.suffix}), but holds none; look at "
                "the path"
            )
        yield from files


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
