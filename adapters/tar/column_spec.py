"""Which members become which columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jest_loader.adapters.tar.names import IMAGES
from jest_loader.checks import shown
from jest_loader.skipped import SKIP_REASON

Kind = Literal["key", "bytes", "text", "json", "npz", "npy", "cls"]
KEY = "__key__"
_TYPES = ("str", "int", "float")
_KIND_OF: dict[str, Kind] = {
    "txt": "text", "json": "json", "npz": "npz", "npy": "npy",
    "cls": "cls", "cls2": "cls", "index": "cls", "count": "cls",
}  # fmt: skip
_MOST_BYTES: dict[Kind, int] = {
    "bytes": 1 << 28, "text": 1 << 24, "json": 1 << 24, "npz": 1 << 28, "npy": 1 << 28,
    "cls": 1 << 10, "key": 0,
}  # fmt: skip
IMAGE = ";".join(IMAGES)
"""The members of a column of pictures."""


@dataclass(frozen=True)
class ColumnSpec:
    """A column, and the members that it is read from.

    Args:
        name: Of the column.
        extensions: Of its members, in order of preference; none for keys.
        kind: How they are read.
        field: The field of a JSON object, with dots for those within, or the name of an array of
            an npz file; None for the whole member.
        type: Of a JSON field: "str", "int" or "float"; None for any.
    """

    name: str
    extensions: tuple[str, ...]
    kind: Kind
    field: str | None = None
    type: str | None = None

    @property
    def most_bytes(self) -> int:
        """The size of the largest member that is read."""
        return _MOST_BYTES[self.kind]

    @property
    def members(self) -> str:
        """For messages, as in ".jpg or .png"."""
        return " or ".join(f".{extension}" for extension in self.extensions)


def column_specs(columns: Mapping[str, str]) -> list[ColumnSpec]:
    """What ``TarSource`` is given as ``columns``, taken apart.

    Raises:
        ValueError: if it is no such mapping, or a value cannot be understood.
    """
    given: object = columns
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            "columns must map names to members, as in {'image': 'jpg;png', 'caption': 'txt'}, got "
            f"{shown(repr(given))}"
        )
    for name, members in given.items():
        if not isinstance(name, str) or not isinstance(members, str) or not name or not members:
            raise ValueError(
                "columns must map names to members, both text, as in {'caption': 'txt'}, got "
                f"{shown(repr(name))}: {shown(repr(members))}"
            )
        if name == SKIP_REASON:
            raise ValueError(
                f"a column must not be named {SKIP_REASON!r}, which says why rows are skipped; "
                "give it another name"
            )
    return [_spec(name, members) for name, members in columns.items()]


def _spec(name: str, members: str) -> ColumnSpec:
    if members == KEY:
        return ColumnSpec(name, (), "key")
    stored, colon, field = members.partition(":")
    extensions = tuple(one.strip().lower().lstrip(".") for one in stored.split(";"))
    kinds = {_KIND_OF.get(extension.rpartition(".")[2], "bytes") for extension in extensions}
    if not all(extensions) or len(kinds) > 1:
        raise ValueError(
            f"members of column {name!r} must be extensions of one kind, as 'jpg;png', got "
            f"{shown(members)!r}; name one"
        )
    kind: Kind = kinds.pop()
    if bool(colon) != (kind == "npz" or (kind == "json" and bool(colon))) or (colon and not field):
        raise ValueError(
            f"column {name!r} must name a field of .json or an array of .npz members after a "
            f"colon, as 'json:uid' or 'npz:image_emb', and of no others, got {shown(members)!r}"
        )
    type_ = None
    if kind == "json" and field.rpartition(":")[2] in _TYPES and ":" in field:
        field, _, type_ = field.rpartition(":")
    if kind == "json" and not colon:
        kind = "text"
    return ColumnSpec(name, extensions, kind, field or None, type_)
