"""Pictures and captions in WebDataset tars.

Neighbouring members whose names agree up to the first dot of the base name are one example:
``000/17.jpg`` and ``000/17.txt``.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jest_loader.adapters.tar.names import IMAGES, is_another, several
from jest_loader.checks import shown
from jest_loader.pack.members import Content, tar_members
from jest_loader.pack.records import (
    DUPLICATE,
    MOST_IMAGE_BYTES,
    Record,
    SkipError,
    Tally,
    caption_of,
    digest_of,
    extra_columns,
)

_MOST_BYTES = dict.fromkeys(IMAGES, MOST_IMAGE_BYTES) | {"txt": 1 << 24, "json": 1 << 24}
_LOG = logging.getLogger(__name__)
_Group = dict[str, Content]  # by extension


def tar_records(
    path: Path, caption_column: str, keep_columns: tuple[str, ...], tally: Tally
) -> Iterator[Record]:
    """The examples of a tar, in its order; those that cannot be used go to the tally.

    The caption is the member .txt, or the field ``caption_column`` of the member .json.

    Args:
        path: A tar, compressed or not.
        caption_column: The field of the caption.
        keep_columns: Further fields of the member .json to keep.
        tally: What to count skipped examples in.

    Raises:
        ValueError: if the tar is damaged or cut short, or a group of members is several examples.
    """
    seen = set()
    num_further = 0
    for key, group in _groups(path):
        name = f"{path.name}/{key}"
        further = _further_images(path, key, group)
        num_further += len(further)
        try:
            record = _record(name, group, caption_column, keep_columns)
            digest = digest_of(key, record.image, record.caption)
            if digest in seen:  # another picture or caption makes it another example
                raise SkipError(DUPLICATE)
        except SkipError as skip:
            tally.skip(name, str(skip))
            continue
        seen.add(digest)
        yield record
    if num_further:
        _LOG.warning(
            "%s: %d pictures with further dots in their names (0.seg.png) are left out",
            shown(path),
            num_further,
        )


def _record(name: str, group: _Group, caption_column: str, keep_columns: tuple[str, ...]) -> Record:
    images = [extension for extension in group if extension in IMAGES]
    if not images:
        raise SkipError("no picture beside it")
    if "txt" not in group and "json" not in group:
        raise SkipError("no .txt or .json beside it")
    image = _read(group[images[0]])
    fields = _json_fields(_read(group["json"])) if "json" in group else {}
    if "txt" in group:
        caption = caption_of(_utf8(_read(group["txt"])))
    else:
        caption = caption_of(fields.get(caption_column))
    return Record(name, image, caption, extra_columns(fields, keep_columns))


def _read(content: Content) -> bytes:
    if isinstance(content, SkipError):
        raise content
    assert content is not None
    return content


def _json_fields(content: bytes) -> dict[str, Any]:
    text = _utf8(content)
    try:
        fields = json.loads(text)
    except Exception:  # nested too deeply is no ValueError
        fields = None
    if not isinstance(fields, dict):
        raise SkipError("not a JSON object")
    return fields


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SkipError("text not in UTF-8") from None


def _groups(path: Path) -> Iterator[tuple[str, _Group]]:
    """Neighbouring members of one key; those with hidden names are left out and counted."""
    key = ""
    group: _Group = {}
    num_hidden = 0
    for name, content in tar_members(path, lambda name: _MOST_BYTES.get(_parts(name)[1], 0)):
        if any(part.startswith(".") and part != ".." for part in name.parts):
            num_hidden += 1
            continue
        member_key, extension = _parts(name)
        if member_key != key and group:
            yield key, group
            group = {}
        key = member_key
        if is_another(extension, group):
            raise several(path.name, key, extension)
        group[extension] = content
    if group:
        yield key, group
    if num_hidden:
        _LOG.warning("%s: %d members with hidden names are left out", shown(path), num_hidden)


def _parts(name: PurePosixPath) -> tuple[str, str]:
    """Key and extension."""
    stem, _, extension = name.name.partition(".")
    return (str(name.with_name(stem)) if stem else str(name)), extension.lower()


def _further_images(path: Path, key: str, group: _Group) -> list[str]:
    """Extensions such as ``seg.png``, which are left out where the example has its picture.

    Raises:
        ValueError: if it has not, and they are several: each may be a picture of its own.
    """
    further = [name for name in group if name.rpartition(".")[2] in IMAGES and "." in name]
    if len(further) > 1 and not any(name in IMAGES for name in group):
        raise several(path.name, key, further[-1])
    return further
