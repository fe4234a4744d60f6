"""Whose files a local folder holds: a mark in it names the remote that they are fetched from."""

import json
import os
from pathlib import Path

from jest_loader.checks import shown, without_secrets
from jest_loader.files import read_regular, replacing

MARK = ".fetched_by_jest_loader.json"
_MOST_BYTES = 1 << 20


def claim(local: Path, remote: str) -> None:
    """Mark the folder, made if there is none, as that of ``remote``.

    Raises:
        ValueError: if it is marked as another remote's, or is not marked and holds anything:
            fetching would delete or deliver what belongs to another data set.
    """
    local.mkdir(parents=True, exist_ok=True)
    # A password or signature is no part of what the data is, and may be renewed.
    wanted = without_secrets(remote) if "://" in remote else os.path.abspath(remote)
    wanted = wanted.rstrip("/")
    mark = local / MARK
    if _owner(mark) is None and not _others(local):
        with replacing(mark) as part:
            part.write_text(json.dumps({"remote": wanted}) + "\n")
    found = _owner(mark)  # Another process may have been first.
    if found != wanted:
        what = (
            f"holds {shown(_others(local)[0])}" if found is None else f"has files of {shown(found)}"
        )
        raise ValueError(
            f"local must be empty, or a folder that was fetched from {wanted} before, but "
            f"{str(local)!r} {what}; choose another folder"
        )


def _others(local: Path) -> list[str]:
    """What the folder holds beside the mark."""
    return [name for name in sorted(os.listdir(local)) if not name.startswith((MARK, f".{MARK}."))]


def _owner(mark: Path) -> str | None:
    """The remote that the mark names; None if there is no mark."""
    try:
        found = json.loads(read_regular(mark, _MOST_BYTES))["remote"]
    except FileNotFoundError:
        return None
    except Exception:  # It may hold anything.
        return "a remote that its damaged mark does not name"
    return str(found)
