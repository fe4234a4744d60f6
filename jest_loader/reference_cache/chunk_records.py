"""What a stopped build needs to go on: its settings, and a record of each chunk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jest_loader.checks import differ, shown
from jest_loader.reference_cache.format import CACHE_VERSION, Kind, is_missing, read_json
from jest_loader.reference_cache.measure import Arrays, Logit
from jest_loader.seen import SEEN, UNKNOWN

BATCH_SIZE = "trained_batch_size"
"""What an identity calls the batch size that the cache's model was trained at."""


@dataclass(frozen=True)
class Settings:
    """What must be the same for a stopped build to go on.

    Args:
        kind: Embeddings or losses.
        chunk_rows: Rows of a chunk.
        num_rows: Rows that the source promises; None if it does not say.
        identity: What the cache is made from.
        knows_seen: Whether it is kept which rows the reference was trained on.
    """

    kind: Kind
    chunk_rows: int
    num_rows: int | None
    identity: dict[str, str]
    knows_seen: bool = False

    @property
    def num_chunks(self) -> int | None:
        """Chunks of the whole cache, if that is known."""
        return None if self.num_rows is None else -(-self.num_rows // self.chunk_rows)


@dataclass(frozen=True)
class Record:
    """A chunk that is whole and on disk.

    Args:
        num_rows: How many rows it has.
        num_missing: How many of them have no values.
        num_seen: On how many the reference was trained.
        num_known: Of how many that is known.
        logit: Width, scale and bias; None for losses.
        checksums: The BLAKE2b of the chunk's file of each array.
        source: The source's state after its last row, if the source says.
    """

    num_rows: int
    num_missing: int
    num_seen: int
    num_known: int
    logit: Logit | None
    checksums: dict[str, str]
    source: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        columns: Arrays,
        logit: Logit | None,
        checksums: dict[str, str],
        source: dict[str, Any] | None,
    ) -> "Record":
        """The record of a chunk of these columns, which was just written."""
        missing = is_missing(columns["loss" if logit is None else "image"])
        seen = columns.get("seen", np.full(len(missing), UNKNOWN))
        numbers = (int(rows.sum()) for rows in (missing, seen == SEEN, seen != UNKNOWN))
        num_missing, num_seen, num_known = numbers
        return cls(len(missing), num_missing, num_seen, num_known, logit, checksums, source)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a stopped building keeps in the file ``path``.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        found = read_json(path)
        if isinstance(found["identity"], dict):
            return dict(found)
    except FileNotFoundError:
        raise
    except Exception:  # No JSON, nested without end, or something else.
        pass
    raise ValueError(
        f"{path} must hold the settings of a stopped building, but is damaged; set overwrite to "
        "build the cache anew"
    )


def check_same(path: Path, found: dict[str, Any], settings: Settings) -> None:
    """Raise ``ValueError`` unless what was ``found`` at ``path`` has these settings.

    It may not know the batch size of its model, which changes nothing of its embeddings.
    """
    now = _flat({"version": CACHE_VERSION, **asdict(settings)})
    was = _flat(found)
    if BATCH_SIZE not in was:
        now.pop(BATCH_SIZE, None)
    for name in now | was:
        if differ(was.get(name), now.get(name)):
            raise ValueError(
                f"{path} holds a reference cache with {shown(name)} {shown(repr(was.get(name)))}, "
                f"which cannot go on with {shown(repr(now.get(name)))}; choose another folder, or "
                "set overwrite to replace it"
            )


def not_the_same(row: int) -> ValueError:
    """The error for a source that differs from the one that was stopped, from a row on."""
    return ValueError(
        "the source must yield the same examples in the same order as when the building was "
        f"stopped, but does not from row {row} on; give it as it was then, from its beginning, or "
        "set overwrite to build the cache anew"
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    identity: dict[str, Any] = settings["identity"]
    return {name: value for name, value in settings.items() if name != "identity"} | identity


def as_json(values: dict[str, Any]) -> bytes:
    """Indented JSON, for people to read."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()
