"""The index.json of a folder of MDS shards."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from jest_loader.adapters.fetching import MOST_INDEX_BYTES, RemoteFolder
from jest_loader.adapters.mds.shard_info import INDEX, check_shard, is_name
from jest_loader.checks import shown, without_secrets
from jest_loader.files import read_regular


def fetch_index(remote: RemoteFolder) -> None:
    """Fetch the index again, and delete local files that it describes otherwise than before."""
    path = remote.local / INDEX
    before = _files_in(path)
    # One that cannot be read does not take the place of one that can.
    name = f"{without_secrets(remote.remote).rstrip('/')}/{INDEX}"
    remote.fetch(INDEX, check=lambda part: load_index(part.parent, name))
    after = _files_in(path)
    if before == after:
        return
    for name, info in before.items():
        # Without a hash nothing tells whether the file is still the same.
        if info != after.get(name) or not info.get("hashes"):
            remote.drop(name)


def _files_in(path: Path) -> dict[str, dict[str, Any]]:
    """The index's entry for each file, by its path in the folder; none if it cannot be read.

    ``load_index`` reports an index that cannot be read.
    """
    try:
        files = _listed(_parsed(path)["shards"])
        return {file["basename"]: file for file in files if is_name(file["basename"])}
    except Exception:  # It may hold anything.
        return {}


def load_index(path: Path, name: str | None = None) -> dict[str, Any]:
    """The parsed index.json, of which everything that is acted on is checked.

    Args:
        path: Its folder.
        name: What errors call it; None for its path.

    Raises:
        ValueError: if there is none, or it cannot be read.
        ModuleNotFoundError: if ``streaming`` is not installed.
    """
    index_path = path / INDEX
    if not index_path.is_file():
        raise ValueError(
            f"path must be a local folder with an MDS index.json, got {shown(repr(str(path)))}; "
            "remote shards are read by MdsStream(url, local=folder)"
        )
    name = name or str(index_path)
    is_hash = _known_hashes()
    try:
        index = _parsed(index_path)
    except Exception as error:  # Nested without end, not UTF-8, no JSON.
        raise _no_index(name, f"{type(error).__name__}: {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("shards"), list):
        raise _no_index(name, "it must be an object with a list 'shards'")
    if index.get("version") != 2:
        raise _no_index(name, f"version must be 2, got {shown(repr(index.get('version')))}")
    for number, info in enumerate(index["shards"]):
        try:
            check_shard(info, is_hash)
        except ValueError as error:
            raise _no_index(name, f"of shard {number}, {error}") from error
    counts = Counter(str(PurePosixPath(file["basename"])) for file in _listed(index["shards"]))
    equal = [name for name, count in counts.items() if count > 1]
    if equal:
        raise _no_index(name, f"each file must be listed once, but {equal[0]} is not")
    return index


def _listed(shards: Any) -> list[Any]:
    """The entries of all files."""
    return [file for info in shards for file in (info["raw_data"], info.get("zip_data")) if file]


def _parsed(path: Path) -> Any:
    return json.loads(read_regular(path, MOST_INDEX_BYTES).decode("utf-8-sig"))


def _no_index(name: str, reason: str) -> ValueError:
    return ValueError(
        f"{shown(name)} is not an MDS index of version 2: {shown(reason, most=500)}; fetch it "
        "again, or write the data set again with MDSWriter"
    )


def _known_hashes() -> Callable[[str], bool]:
    try:
        import streaming
    except ModuleNotFoundError as error:
        if error.name != "streaming":
            raise
        raise ModuleNotFoundError(
            "reading MDS shards needs mosaicml-streaming; pip install 'jest-loader[mds]'",
            name="streaming",
        ) from error
    known: Callable[[str], bool] = streaming.base.hashing.is_hash
    return known
