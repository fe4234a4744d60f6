"""Members of a tar to examples."""

import logging
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.tar.headers import Members
from jest_loader.adapters.tar.index import MOST_EXTENSIONS, TarIndex
from jest_loader.adapters.tar.names import is_another, several, split
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array

_LOG = logging.getLogger(__name__)
_Number = TypeVar("_Number", bound=np.generic)


def grouped(chunks: Iterable[Members], name: str) -> TarIndex:
    """The index of a tar.

    Args:
        chunks: All its members.
        name: The tar's, for messages.

    Raises:
        ValueError: if it holds no examples, members of one are not neighbours, or a group of
            members is several examples.
    """
    grouper = _Grouper(name)
    for members in chunks:
        grouper.add(members)
    return grouper.index()


class _Grouper:
    """Gathers members to examples.

    Args:
        name: The tar's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._key: bytes | None = None  # of the group in the making
        self._group: list[int] = []  # its extensions
        self._numbers: dict[bytes, int] = {}  # of extensions
        self._fine: set[tuple[int, ...]] = set()  # extensions of groups that are one example each
        self._num_members = self._num_left_out = 0
        self._keys: list[bytes] = []
        self._columns: dict[str, list[NDArray[np.generic]]] = {
            "starts": [], "sizes": [], "kinds": [], "flaws": [], "firsts": [], "key_ends": [],
            "hashes": [],
        }  # fmt: skip
        self._key_bytes = 0

    def add(self, members: Members) -> None:
        """The next members."""
        kept: list[int] = []
        kinds: list[int] = []
        firsts: list[int] = []
        keys: list[bytes] = []
        for number, name in enumerate(members.names):
            parts = split(name)
            if parts is None:
                continue
            key, extension = parts
            if key != self._key:
                self._end_group()
                self._key = key
                firsts.append(self._num_members + len(kept))
                keys.append(key)
            kind = self._numbers.get(extension)
            if kind is None:
                kind = self._new_kind(extension)
            self._group.append(kind)
            if len(self._group) > MOST_EXTENSIONS:
                self._end_group()
            kept.append(number)
            kinds.append(kind)
        self._num_members += len(kept)
        self._num_left_out += len(members.names) - len(kept)
        self._add_columns(members, kept, kinds)
        self._add_keys(firsts, keys)

    def _add_columns(self, members: Members, kept: list[int], kinds: list[int]) -> None:
        columns = self._columns
        columns["starts"].append(members.starts[kept])
        columns["sizes"].append(members.sizes[kept])
        columns["flaws"].append(members.flaws[kept])
        columns["kinds"].append(np.array(kinds, np.int16))

    def _add_keys(self, firsts: list[int], keys: list[bytes]) -> None:
        ends = self._key_bytes + np.array([len(key) for key in keys], np.int64).cumsum()
        self._key_bytes = int(ends[-1]) if len(ends) else self._key_bytes
        self._columns["firsts"].append(np.array(firsts, np.int64))
        self._columns["key_ends"].append(ends)
        self._columns["hashes"].append(np.array([hash(key) for key in keys], np.int64))
        self._keys.append(b"".join(keys))

    def index(self) -> TarIndex:
        """All that was added."""
        self._end_group()
        if self._key is None:
            raise ValueError(
                f"a tar must hold at least one example, but {shown(self._name)} holds none; its "
                "members are files such as 000.jpg and 000.txt"
            )
        if self._num_left_out:
            _LOG.info(
                "%s: %d members with hidden names or without an extension are left out",
                shown(self._name),
                self._num_left_out,
            )
        found = TarIndex(
            self._joined("starts", np.int64),
            self._joined("sizes", np.int64),
            self._joined("kinds", np.int16),
            self._joined("flaws", np.uint8),
            np.append(self._joined("firsts", np.int64), self._num_members),
            self._joined("key_ends", np.int64),
            b"".join(self._keys),
            tuple(_text(extension) for extension in self._numbers),
        )
        self._check_apart(found)
        return found

    def _joined(self, column: str, dtype: type[_Number]) -> NDArray[_Number]:
        return np.concatenate(self._columns.pop(column)).astype(dtype, copy=False)

    def _new_kind(self, extension: bytes) -> int:
        if len(self._numbers) >= MOST_EXTENSIONS:
            raise ValueError(
                f"a tar must have at most {MOST_EXTENSIONS} kinds of members, but "
                f"{shown(self._name)} has more (one is .{shown(_text(extension))}); a member's "
                "kind is all that follows the first dot of its name, so rename them with one dot"
            )
        self._numbers[extension] = len(self._numbers)
        return self._numbers[extension]

    def _end_group(self) -> None:
        """See that the group in the making is one example."""
        if not self._group:
            return
        group = tuple(self._group)
        self._group = []
        if group in self._fine:
            return
        texts = [_text(extension) for extension in self._numbers]
        others: set[str] = set()
        for kind in group:
            if texts[kind] in others or is_another(texts[kind], others):
                raise several(self._name, _text(self._key or b""), texts[kind])
            others.add(texts[kind])
        if len(self._fine) < MOST_EXTENSIONS:
            self._fine.add(group)

    def _check_apart(self, index: TarIndex) -> None:
        """Raise ``ValueError`` if a key comes twice, with others between."""
        hashes: Int64Array = self._joined("hashes", np.int64)
        order = np.argsort(hashes, kind="stable")
        for place in np.flatnonzero(np.diff(hashes[order]) == 0).tolist():
            one, other = order[place], order[place + 1]
            if (key := index.key(int(one))) == index.key(int(other)):
                raise ValueError(
                    f"the members of an example must be neighbours, but {shown(self._name)} has "
                    f"'{shown(key)}' in two places (examples {one} and {other}); write it again "
                    "with tar --sort=name, or give each example a name of its own"
                )


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
