"""Pictures and captions in WebDataset tars.

Neighbouring members whose names agree up to the first dot of the base name are one example:
``000/17.jpg`` and ``000/17.txt``.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jest_loader.pack.records import Record, SkipError, Tally, caption_of, extra_columns

_IMAGES = ("jpg", "jpeg", "png", "webp")
_BLOCK_BYTES = 512
_TAIL_BYTES = 1 << 20
_Members = list[tuple[str, bytes]]  # extension and content


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
        ValueError: if the tar is damaged or cut short.
    """
    seen = set()
    for key, members in _groups(path):
        name = f"{path.name}/{key}"
        try:
            if key in seen:
                raise SkipError("duplicate")
            record = _record(name, members, caption_column, keep_columns)
        except SkipError as skip:
            tally.skip(name, str(skip))
            continue
        seen.add(key)
        yield record


def _record(
    name: str, members: _Members, caption_column: str, keep_columns: tuple[str, ...]
) -> Record:
    images = [content for extension, content in members if extension in _IMAGES]
    if len(images) != 1:
        raise SkipError("several images" if images else "no image")
    by_extension = dict(members)
    fields = _json_fields(by_extension["json"]) if "json" in by_extension else {}
    if "txt" in by_extension:
        caption = caption_of(_utf8(by_extension["txt"]))
    else:
        caption = caption_of(fields.get(caption_column))
    return Record(name, images[0], caption, extra_columns(fields, keep_columns))


def _json_fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(_utf8(content))
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise SkipError("not a JSON object")
    return fields


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise SkipError("text not in UTF-8") from None


def _groups(path: Path) -> Iterator[tuple[str, _Members]]:
    """Neighbouring members of one key."""
    key = ""
    members: _Members = []
    for name, content in _members(path):
        stem, _, extension = name.name.partition(".")
        member_key = str(name.with_name(stem)) if stem else str(name)
        if member_key != key and members:
            yield key, members
            members = []
        key = member_key
        members.append((extension.lower(), content))
    if members:
        yield key, members


def _members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the regular files, read once from front to back."""
    try:
        with tarfile.open(path, mode="r:*") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield PurePosixPath(member.name), file.read()
            _check_end(tar, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}; fetch it again") from error


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """See that the tar has its end mark and nothing behind it.

    tarfile takes a cut between members and a damaged header for the end, and stops at the first
    end mark of tars that were joined with ``cat``.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(_TAIL_BYTES)
    if len(rest) < _BLOCK_BYTES or any(rest):
        raise ValueError(
            f"{path} must end with a tar's end mark, got {len(rest)} other bytes at byte "
            f"{tar.offset}; fetch it again, and do not join tars with cat"
        )
