"""The index.json of a folder of MDS shards."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from jest_loader.adapters.mds.remote import RemoteFolder

INDEX = "index.json"


def fetch_index(remote: RemoteFolder) -> None:
    """Fetch the index again, and delete local files that it describes otherwise than before."""
    path = remote.local / INDEX
    before = _files_in(path)
    # One that cannot be read does not take the place of one that can.
    remote.fetch(INDEX, check=lambda part: load_index(part.parent))
    after = _files_in(path)
    if before == after:
        return
    for name, info in before.items():
        # Without a hash nothing tells whether the file is still the same.
        if info != after.get(name) or not info.get("hashes"):
            remote.drop(name)


def _files_in(path: Path) -> dict[str, dict[str, Any]]:
    """The index's entry for each file, by name; none if the index cannot be read.

    ``load_index`` reports an index that cannot be read.
    """
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        files = [file for info in shards for file in (info["raw_data"], info["zip_data"]) if file]
        return {PurePosixPath(file["basename"]).name: file for file in files}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def load_index(path: Path) -> dict[str, Any]:
    """The parsed index.json, checked for what ``streaming`` needs to make readers of it.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    index_path = path / INDEX
    if not index_path.is_file():
        raise ValueError(
            f"path must be a local folder with an MDS index.json, got {str(path)!r}; remote "
            "shards are read by MdsStream(url, local=folder)"
        )
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        shards = [(info["format"], info["raw_data"], info["zip_data"]) for info in index["shards"]]
        version = index["version"]
        files = [file["basename"] for _, *pair in shards for file in pair if file]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{index_path} is not an MDS index: {error!r}; fetch it again") from error
    formats = {format_ for format_, *_ in shards}
    if version != 2 or formats - {"mds"}:
        raise ValueError(
            f"{index_path} must list MDS shards of version 2, got version {version} and "
            f"{sorted(formats)}; write the data set again with MDSWriter"
        )
    outside = [
        name for name in files if PurePosixPath(name).is_absolute() or ".." in Path(name).parts
    ]
    if outside:
        raise ValueError(
            f"{index_path} must name files inside its folder, got {outside}; do not use an index "
            "from a source that you do not trust"
        )
    return dict(index)
