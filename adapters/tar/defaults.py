"""What the first examples tell of the columns: which there are, and what their arrays are like."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from jest_loader.adapters.tar.column_spec import IMAGE, ColumnSpec, column_specs
from jest_loader.adapters.tar.names import IMAGES
from jest_loader.adapters.tar.npz import Form
from jest_loader.adapters.tar.rows import OpenShard
from jest_loader.adapters.tar.values import form_of
from jest_loader.checks import first_few, shown
from jest_loader.ragged import RaggedBytes

_MOST_LOOKED_AT = 1000
_CAPTION = "json:caption:str"


def default_specs(shard: OpenShard) -> list[ColumnSpec]:
    """Columns ``image`` and ``caption``, as far as the first tar has their members.

    Raises:
        ValueError: if it has neither.
    """
    extensions = shard.index.extensions
    columns = {}
    if any(extension in IMAGES for extension in extensions):
        columns["image"] = IMAGE
    if "txt" in extensions:
        columns["caption"] = "txt"
    elif any(map(_has_caption, _members(shard, column_specs({"caption": _CAPTION})[0]))):
        columns["caption"] = _CAPTION
    if not columns:
        names = first_few([f".{shown(extension)}" for extension in extensions])
        raise ValueError(
            "the first examples must have a picture, a .txt, or a .json with a caption to choose "
            f"columns by, but {shown(shard.name)} has {names}; name them, as in "
            "columns={'image_emb': 'npz:image_emb'}"
        )
    return column_specs(columns)


def forms(specs: Sequence[ColumnSpec], shard: OpenShard) -> dict[str, Form]:
    """What the arrays of a column are like: as the first one that can be read.

    Raises:
        ValueError: if none can be.
    """
    return {spec.name: _form(spec, shard) for spec in specs if spec.kind in ("npz", "npy")}


def _form(spec: ColumnSpec, shard: OpenShard) -> Form:
    reason = f"none of the first has a member {spec.members}"
    for content in _members(shard, spec):
        try:
            return form_of(spec, content)
        except Exception as error:  # Parsers of foreign bytes may raise anything.
            reason = str(error) or type(error).__name__
    raise ValueError(
        f"column {spec.name!r} must be an array in the first {_MOST_LOOKED_AT} examples of "
        f"{shown(shard.name)}, but {shown(reason)}; look at columns={{...}}"
    )


def _has_caption(content: memoryview) -> bool:
    try:
        return isinstance(json.loads(bytes(content))["caption"], str)
    except Exception:  # Nested too deeply is no ValueError.
        return False


def _members(shard: OpenShard, spec: ColumnSpec) -> Iterator[memoryview]:
    """The first members of a column that can be looked at."""
    index = shard.index
    members = index.members_of(spec.extensions)[:_MOST_LOOKED_AT]
    members = members[members >= 0]
    is_fine = (index.flaws[members] == 0) & (index.sizes[members] <= spec.most_bytes)
    for member in members[is_fine].tolist():
        place = np.array([member])
        yield RaggedBytes.within(shard.data, index.starts[place], index.sizes[place]).view(0)
