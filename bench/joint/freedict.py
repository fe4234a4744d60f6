"""FreeDict's dictionaries, as Debian's packages have them: entries of a dictd database."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NUMBER = re.compile(r"^\s*\d+\.\s*")
_REMARK = re.compile(r"\s*(\(|$)")
_PRONUNCIATION = re.compile(r"/[^/]*/|<[^>]*>")


def entries(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The headword and the translations of each entry of ``freedict-xxx-yyy.dict.dz``.

    A translation is the first line below the headword that has one or, where lines are numbered,
    each of those. Lines in parentheses are remarks.
    """
    data = gzip.decompress(path.read_bytes())
    index = path.with_name(path.name.removesuffix(".dict.dz") + ".index")
    for start, length in _places(index):
        headword, *lines = data[start : start + length].decode("utf-8", "replace").splitlines()
        lines = [line for line in lines if not _REMARK.match(line)]
        chosen = [line for line in lines if _NUMBER.match(line)] or lines[:1]
        yield (
            _PRONUNCIATION.sub(" ", headword),
            [_NUMBER.sub("", line).split(",")[0] for line in chosen],
        )


def _places(index: Path) -> list[tuple[int, int]]:
    """Offset and length in bytes of each entry, once."""
    lines = (line.split("\t") for line in index.read_text("utf-8").splitlines())
    return sorted({(_number(line[1]), _number(line[2])) for line in lines if line[0][:2] != "00"})


def _number(text: str) -> int:
    """Dictd's numbers: base 64, most significant digit first."""
    number = 0
    for digit in text:
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    return number
