r"""Pairs of German and English from the Ding dictionary, as rows of hashed n-grams.

    apt-get download trans-de-en    # 6 MB, GPL-2+; nothing is installed
    dpkg-deb -x trans-de-en_*.deb runs/deb
    python -m bench.joint.dictionary --file runs/deb/usr/share/trans/de-en --out runs/dictionary

A line of the dictionary is a lemma with its forms, "Haus {n} | Häuser {pl} :: house | houses": a
*family* of pairs that differ little. Each form makes a pair of its first translation on each side.

With ``--freedict runs/deb/usr/share/dictd`` the pairs of other languages in FreeDict's
dictionaries (Debian's ``dict-freedict-fin-eng`` and the like, but not German, which is made from
the Ding dictionary) are there too, for a pool in which German is one of many.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from bench.harness import parser_of, print_document
from bench.joint.freedict import entries

NUM_GRAMS, MAX_GRAMS = 1 << 16, 40
_REMARKS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|/[^/]*/|<[^>]*>")
_WORD = re.compile(r"\w+")


class Pair(NamedTuple):
    """A German text, or another language's, and an English one.

    Args:
        german: The text.
        english: Its translation.
        family: The number of the line or entry that they are from.
        is_german: Whether it is.
    """

    german: str
    english: str
    family: int
    is_german: bool = True


def main() -> None:
    """Write the tables of n-grams and families."""
    parser = parser_of(__doc__)
    parser.add_argument("--file", type=Path, required=True, help="the dictionary, de-en")
    parser.add_argument("--freedict", type=Path, help="folder with freedict-*.dict.dz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    arguments = parser.parse_args()
    with arguments.file.open(encoding="utf-8") as lines:
        pairs = list(pairs_of(lines))
    if not pairs:
        raise SystemExit(f"{arguments.file} has no line with ' :: ' in it; name the file de-en")
    if arguments.freedict is not None:
        pairs += other_pairs(arguments.freedict, first_family=1 + pairs[-1].family)
    write(pairs, arguments.out)
    families = len({pair.family for pair in pairs})
    print_document({"pairs": len(pairs), "families": families})


def pairs_of(lines: Iterable[str]) -> Iterator[Pair]:
    """The pairs of its lines; comments and forms without words on both sides are left out."""
    for family, line in enumerate(lines):
        german, separator, english = line.partition(" :: ")
        forms = german.split(" | "), english.split(" | ")
        if line.startswith("#") or not separator or len(forms[0]) != len(forms[1]):
            continue
        for form in zip(*forms, strict=True):
            pair = Pair(_first(form[0]), _first(form[1]), family)
            if _has_words(pair):
                yield pair


def other_pairs(folder: Path, first_family: int) -> list[Pair]:
    """Pairs of other languages than German; each entry of a dictionary is a family."""
    found = []
    numbers = count(first_family)
    for path in sorted(folder.glob("freedict-*.dict.dz")):
        languages = path.name.removesuffix(".dict.dz").split("-")[1:]
        if "deu" in languages:
            continue
        for (headword, translations), family in zip(entries(path), numbers, strict=False):
            sides = ((_first(headword), _first(text)) for text in translations)
            in_order = (side[::-1] if languages[0] == "eng" else side for side in sides)
            pairs = (Pair(*side, family, is_german=False) for side in in_order)
            found += [pair for pair in pairs if _has_words(pair)]
    return found


def write(pairs: list[Pair], out: Path) -> None:
    """Tables of the pairs: int32 [n, MAX_GRAMS] of either side, int32 [n] of families, bool [n]."""
    out.mkdir(parents=True, exist_ok=True)
    for side in ("german", "english"):
        grams = np.zeros((len(pairs), MAX_GRAMS), np.int32)
        for row, pair in enumerate(pairs):
            found = grams_of(getattr(pair, side))
            grams[row, : len(found)] = found
        np.save(out / f"{side}.npy", grams)
    np.save(out / "family.npy", np.array([pair.family for pair in pairs], np.int32))
    np.save(out / "is_german.npy", np.array([pair.is_german for pair in pairs]))
    texts = [[pair.german, pair.english] for pair in pairs]
    (out / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")


def grams_of(text: str) -> list[int]:
    """At most ``MAX_GRAMS`` numbers in [1, NUM_GRAMS): of its words, then of their trigrams."""
    words = [f"<{word}>" for word in _WORD.findall(text.lower())]
    trigrams = [word[at : at + 3] for word in words for at in range(len(word) - 2)]
    return [1 + crc32(gram.encode()) % (NUM_GRAMS - 1) for gram in words + trigrams][:MAX_GRAMS]


@dataclass(frozen=True)
class Dictionary:
    """The tables.

    Args:
        german: Int32 [n, MAX_GRAMS], 0 where a text has no more n-grams.
        english: The same.
        family: Int32 [n], the line of each pair.
        is_german: Bool [n].
    """

    german: Tensor
    english: Tensor
    family: Tensor
    is_german: Tensor

    @classmethod
    def read(cls, path: Path) -> "Dictionary":
        """What ``write`` wrote."""
        names = (field.name for field in fields(cls))
        return cls(*(torch.from_numpy(np.load(path / f"{name}.npy")) for name in names))

    def to(self, device: str) -> "Dictionary":
        """The same with its texts on a device; what rows are chosen by stays on the CPU."""
        return replace(self, german=self.german.to(device), english=self.english.to(device))

    @property
    def device(self) -> torch.device:
        """Where the texts are: models and embeddings are too."""
        return self.german.device

    def __len__(self) -> int:
        return len(self.family)


def _has_words(pair: Pair) -> bool:
    return all(_WORD.search(text) for text in (pair.german, pair.english))


def _first(text: str) -> str:
    """The first of its translations, without remarks on grammar and use."""
    return " ".join(_REMARKS.sub(" ", text.split(";")[0]).split())


if __name__ == "__main__":
    main()
