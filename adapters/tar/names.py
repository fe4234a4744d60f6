"""Names of members: which example a member belongs to, and which part of it it is.

Neighbouring members whose names agree up to the first dot of the base name are one example:
``000/17.jpg`` and ``000/17.txt``.
"""

from collections.abc import Collection

from jest_loader.checks import shown

IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json", "npz", "npy", "cls")
KINDS = frozenset((*IMAGES, *_TEXTS))
"""Extensions of members that an example has one of."""


def split(name: bytes) -> tuple[bytes, bytes] | None:
    """Key and extension, as in ``(b"000/17", b"jpg")``; None of a hidden member or one without."""
    if name[:1] in (b".", b"/") or b"/." in name or b"//" in name:
        visible = _visible(name)
        if visible is None:
            return None
        name = visible
    folder, slash, base = name.rpartition(b"/")
    stem, _, extension = base.partition(b".")
    if not stem or not extension:
        return None
    return folder + slash + stem, extension.lower()


def _visible(name: bytes) -> bytes | None:
    """The name without ``./``; None where a part of it is hidden."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if any(part.startswith(b".") and part != b".." for part in parts):
        return None
    return (b"/" if name[:1] == b"/" else b"") + b"/".join(parts)


def is_another(extension: str, others: Collection[str]) -> bool:
    """Whether a member shows that a group of members is several examples.

    Args:
        extension: What follows the first dot of its name.
        others: The same of the group's other members.
    """
    prefix, _, suffix = extension.rpartition(".")
    if suffix not in KINDS:
        return False
    is_image = suffix in IMAGES
    second = extension in others or (
        is_image and not prefix and any(other in IMAGES for other in others)
    )
    kinds = _TEXTS[:2] if is_image else IMAGES
    dotted = bool(prefix) and any(f"{prefix}.{kind}" in others for kind in kinds)
    return second or dotted or prefix[:1].isdigit()


def several(tar: str, key: object, extension: str) -> ValueError:
    """The error for a group of members that is several examples."""
    return ValueError(
        f"an example of a tar must be one picture, but {shown(tar)} has several members of "
        f"one kind for {shown(key)!r}, the name up to the first dot (the last is "
        f".{shown(extension)}); rename them so that only the extension follows the first dot "
        "(IMG_0000.jpg for IMG.0000.jpg)"
    )
