"""What an index says of a shard, checked before anything is done by it."""

from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from jest_loader.checks import shown

INDEX = "index.json"
# The offsets in a shard are 32 bits wide.
_MOST_BYTES = 2**32 - 1
_COMPRESSIONS = ("br", "bz2", "gz", "snappy", "zstd")
_MOST_NAME_BYTES = 255


def check_shard(info: Any, is_hash: Callable[[str], bool]) -> None:
    """Check what an index says of one shard.

    Args:
        info: The entry in the index.
        is_hash: Whether a hash of a name can be computed.

    Raises:
        ValueError: naming the field, what it must be and what it is.
    """
    _check(isinstance(info, dict), "a shard", "an object", info)
    _check(info.get("format") == "mds", "format", "'mds'", info.get("format"))
    _check(info.get("version") == 2, "version", "2", info.get("version"))
    raw, packed = info.get("raw_data"), info.get("zip_data")
    _check_file("raw_data", raw, is_hash)
    if packed:
        _check_file("zip_data", packed, is_hash)
        name = info.get("compression")
        is_known = isinstance(name, str) and name.partition(":")[0] in _COMPRESSIONS
        _check(is_known, "compression", f"one of {', '.join(_COMPRESSIONS)}", name)
    samples = info.get("samples")
    _check(_is_whole(samples), "samples", f"a whole number from 0 to {_MOST_BYTES}", samples)
    if samples:
        most = raw["bytes"] // 4 - 2
        _check(
            samples <= most, "samples", f"at most the {most} that its raw_data can hold", samples
        )
    _check_columns(info)


def _check_columns(info: Any) -> None:
    fields = [info.get(f"column_{kind}") for kind in ("names", "encodings", "sizes")]
    names, encodings, sizes = fields
    for field, texts in (("column_names", names), ("column_encodings", encodings)):
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        _check(is_list and bool(texts), field, "a list of texts", texts)
    equal = [name for name, count in Counter(names).items() if count > 1]
    _check(not equal, "column_names", "distinct", equal)
    _check(len(encodings) == len(names), "column_encodings", "as many as names", encodings)
    is_list = isinstance(sizes, list) and all(size is None or _is_whole(size) for size in sizes)
    _check(is_list, "column_sizes", f"a list of whole numbers up to {_MOST_BYTES} or null", sizes)
    _check(len(sizes) == len(names), "column_sizes", "as many as names", sizes)


def _check_file(field: str, info: Any, is_hash: Callable[[str], bool]) -> None:
    _check(isinstance(info, dict), field, "an object", info)
    name, num_bytes, hashes = (info.get(key) for key in ("basename", "bytes", "hashes"))
    _check(
        is_name(name),
        f"{field}.basename",
        "the name of a file inside its folder, not hidden and no index.json",
        name,
    )
    # Compressing may make a shard a little longer.
    is_size = _is_whole(num_bytes, 2 * _MOST_BYTES if field == "zip_data" else _MOST_BYTES)
    _check(is_size, f"{field}.bytes", f"a whole number from 0 to {_MOST_BYTES}", num_bytes)
    are_texts = isinstance(hashes, dict) and all(isinstance(text, str) for text in hashes.values())
    _check(are_texts, f"{field}.hashes", "texts by the names of hashes", hashes)
    unknown = [text for text in hashes if not is_hash(text)]
    _check(not unknown, f"{field}.hashes", "of known names", unknown)


def is_name(name: Any) -> bool:
    """Whether ``name`` is that of a file inside its folder, deeper ones too, and not of ours."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    path = PurePosixPath(name)
    is_short = all(len(part.encode()) <= _MOST_NAME_BYTES for part in path.parts)
    is_ours = path.name == INDEX or any(part.startswith(".") for part in path.parts)
    return bool(path.name) and is_short and not path.is_absolute() and not is_ours


def _is_whole(value: Any, most: int = _MOST_BYTES) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _check(holds: bool, field: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{field} must be {rule}, got {shown(repr(value))}")
